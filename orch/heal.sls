# Reactor: starts containers again that have stopped by themselves, where the site's option drift_heal allows it.
#
# In the master's configuration:
#
#   reactor:
#     - 'kolla/drift/*': [salt://orch/heal.sls]
{%- set told = data['data'].get('containers') %}
{%- if told %}

heal {{ data['id'] }}:
  runner.kolla_drift.heal:
    - args:
        - host: {{ data['id'] | tojson }}
        - containers: {{ told | tojson }}
{%- endif %}
