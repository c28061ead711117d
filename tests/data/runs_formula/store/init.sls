#!jinja|yaml|kolla
{%- set root = salt['kolla.option']('root') ~ '/' ~ grains.id %}
{%- if salt['kolla.option']('broken') == 'store' %}
store breaks:
  test.fail_without_changes:
    - name: on purpose
{%- else %}
store file:
  file.managed:
    - name: {{ root }}/store
    - contents: {{ salt['kolla.option']('openstack_tag') }}
    - makedirs: true
{%- endif %}
