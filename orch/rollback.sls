# Return configuration, images and containers to what they were before a run.
#
#   salt-run state.orchestrate orch.rollback
#   salt-run state.orchestrate orch.rollback pillar='{"kolla_run": {"of": "20260714-101500-upgrade"}}'
#
# Without a name it is the last run that changed something and was not rolled back. `salt-run kolla.back` shows the
# order: what needs others comes before what it needs. What can not be returned is refused, or told by the runner.
{%- set run = salt['pillar.get']('kolla_run', {}) %}
{%- set back = salt['saltutil.runner']('kolla.back', kwarg={
      'run': run.of | default(''), 'services': run.services | default(none),
      'restore_database': run.restore_database | default(false)}) %}

See who answers and what is kept:
  kolla_rollback.begun:
    - run_id: {{ run.id | default('') | tojson }}
    - back: {{ back | tojson }}
{%- if back is mapping %}
{%- for step in back.steps %}

{{ step.id | tojson }}:
  kolla_run.applied:
    - wave: {{ step.wave }}
    - role: {{ step.role }}
    - services: {{ step.services | tojson }}
    - sls: {{ step.sls | tojson }}
    - minions: {{ step.minions | tojson }}
    - by: {{ step.by | default(none) | tojson }}
    - require:
      - kolla_rollback: See who answers and what is kept
{%- endfor %}
{%- endif %}

Close the record:
  kolla_rollback.ended:
    - require:
      - kolla_rollback: See who answers and what is kept
    - order: last
