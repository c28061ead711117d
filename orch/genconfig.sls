# Write the configuration files of all services; no container is touched.
#
#   salt-run state.orchestrate orch.genconfig
#
# Hosts need not wait for each other: one job on all of them.
Write configuration on all hosts:
  salt.function:
    - name: kolla_node.genconfig
    - tgt: {{ salt['saltutil.runner']('kolla.hosts') | tojson }}
    - tgt_type: list
