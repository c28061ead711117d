# Bring the cloud to the state that the site describes.
#
#   salt-run state.orchestrate orch.deploy
#   salt-run state.orchestrate orch.deploy pillar='{"kolla_run": {"services": ["glance"]}}'
#
# The order is that of kolla.plan (salt-run kolla.plan shows it): waves of services whose requirements are met, in each
# wave the primary hosts, then the others. A failure stops what requires the failed service; the rest goes on.
{%- set run = salt['pillar.get']('kolla_run', {}) %}
{%- set verb = run.verb | default(verb | default('deploy')) %}
{%- set steps = salt['saltutil.runner']('kolla.plan', kwarg={'verb': verb, 'services': run.services | default(none)}) %}

See who answers and what is to be done:
  kolla_run.begun:
    - verb: {{ verb }}
    - run_id: {{ run.id | default('') | tojson }}
    - every: {{ run.every | default(false) | tojson }}
    - hosts: {{ run.hosts | default(none) | tojson }}
    - expect: {{ run.expect | default('') | tojson }}
    - steps: {{ steps | tojson }}

Fetch the images that are missing:
  kolla_run.pulled:
    - require:
      - kolla_run: See who answers and what is to be done
{%- if steps is not string %}
{%- for step in steps %}

{{ step.id | tojson }}:
  kolla_run.applied:
    - wave: {{ step.wave }}
    - role: {{ step.role }}
    - services: {{ step.services | tojson }}
    - sls: {{ step.sls | tojson }}
    - minions: {{ step.minions | tojson }}
    - require:
      - kolla_run: Fetch the images that are missing
{%- endfor %}
{%- endif %}

Close the record:
  kolla_run.ended:
    - require:
      - kolla_run: Fetch the images that are missing
    - order: last
