# Remove what deploying made: containers, volumes with their data, configuration, bridges and VIPs.
#
#   salt-run state.orchestrate orch.destroy
#
# Hosts need not wait for each other: one job on all of them.
Remove the cloud from all hosts:
  salt.function:
    - name: kolla_node.destroy
    - tgt: {{ salt['saltutil.runner']('kolla.hosts') | tojson }}
    - tgt_type: list
