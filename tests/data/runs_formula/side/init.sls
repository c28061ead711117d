#!jinja|yaml|kolla
{%- set root = salt['kolla.option']('root') ~ '/' ~ grains.id %}
{%- if salt['kolla.option']('broken') == 'side' %}
side breaks:
  test.fail_without_changes:
    - name: on purpose
{%- else %}
side file:
  file.managed:
    - name: {{ root }}/side
    - contents: {{ salt['kolla.option']('openstack_tag') }}
    - makedirs: true
{%- endif %}
