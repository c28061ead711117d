# Stop all containers: first those of services that need others, on all hosts, then databases, queues and the rest.
#
#   salt-run state.orchestrate orch.stop
{%- set hosts = salt['saltutil.runner']('kolla.hosts') %}
Stop the services on all hosts:
  salt.function:
    - name: kolla_node.stop
    - tgt: {{ hosts | tojson }}
    - tgt_type: list
    - kwarg: {stage: services}

Stop what the services needed on all hosts:
  salt.function:
    - name: kolla_node.stop
    - tgt: {{ hosts | tojson }}
    - tgt_type: list
    - kwarg: {stage: infrastructure}
    - require:
      - salt: Stop the services on all hosts
