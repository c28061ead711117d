# Start the database's cluster again after all its members have stopped or lost power.
#
#   salt-run state.orchestrate orch.mariadb_recovery
#   salt-run state.orchestrate orch.mariadb_recovery pillar='{"kolla_recovery": {"without": ["ctl3"]}}'
#   salt-run state.orchestrate orch.mariadb_recovery pillar='{"kolla_recovery": {"from": "ctl2"}}'
{%- set asked = salt['pillar.get']('kolla_recovery', {}) %}
Start the database's cluster from its most advanced member and join the others:
  kolla_mariadb.recovered:
    - without: {{ asked.without | default([]) | tojson }}
    - start_from: {{ asked.get('from') | tojson }}
