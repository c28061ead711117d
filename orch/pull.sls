# Fetch the images that hosts lack.
#
#   salt-run state.orchestrate orch.pull
#
# Hosts need not wait for each other: one job on all of them.
Fetch images on all hosts:
  salt.function:
    - name: kolla_node.pull
    - tgt: {{ salt['saltutil.runner']('kolla.hosts') | tojson }}
    - tgt_type: list
