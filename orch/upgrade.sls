# Change the release of the cloud to the one that the site names, service by service.
#
#   salt-run state.orchestrate orch.upgrade
#   salt-run state.orchestrate orch.upgrade pillar='{"kolla_run": {"services": ["glance"]}}'
#
# The order is that of `salt-run kolla.plan verb=upgrade`. For each service: snapshot of its schemas, phases before
# containers are replaced, containers on all hosts, phases after it, verification. The first failure ends it; the same
# command goes on from there.
{%- set run = salt['pillar.get']('kolla_run', {}) %}
{%- set steps = salt['saltutil.runner']('kolla.plan', kwarg={'verb': 'upgrade', 'services': run.services | default(none)}) %}

See who answers and what is to be done:
  kolla_run.begun:
    - verb: upgrade
    - run_id: {{ run.id | default('') | tojson }}
    - every: false
    - expect: {{ run.expect | default('') | tojson }}
    - steps: {{ steps | tojson }}

Fetch the images that are missing:
  kolla_run.pulled:
    - require:
      - kolla_run: See who answers and what is to be done

See whether the cloud is ready:
  kolla_upgrade.checked:
    - require:
      - kolla_run: Fetch the images that are missing
{%- if steps is not string %}
{%- set before = namespace(id='See whether the cloud is ready') %}
{%- for step in steps %}

{{ step.id | tojson }}:
  kolla_upgrade.applied:
    - wave: {{ step.wave }}
    - role: {{ step.role }}
    - services: {{ step.services | tojson }}
    - sls: {{ step.sls | tojson }}
    - minions: {{ step.minions | tojson }}
    - phases: {{ step.phases | tojson }}
    - by: {{ step.by | default(none) | tojson }}
    - require:
      - kolla_upgrade: {{ before.id | tojson }}
{%- set before.id = step.id %}
{%- endfor %}
{%- endif %}

Close the record:
  kolla_run.ended:
    - require:
      - kolla_run: See who answers and what is to be done
    - order: last
