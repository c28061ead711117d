#!jinja|yaml|kolla
{%- set root = salt['kolla.option']('root') ~ '/' ~ grains.id %}
{%- if salt['kolla.option']('broken') == 'top' %}
top breaks:
  test.fail_without_changes:
    - name: on purpose
{%- else %}
top file:
  file.managed:
    - name: {{ root }}/top
    - contents: {{ salt['kolla.option']('openstack_tag') }}
    - makedirs: true
{%- endif %}
