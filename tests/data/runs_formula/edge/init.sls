#!jinja|yaml|kolla
{%- set root = salt['kolla.option']('root') ~ '/' ~ grains.id %}
{%- if salt['kolla.option']('broken') == 'edge' %}
edge breaks:
  test.fail_without_changes:
    - name: on purpose
{%- else %}
edge file:
  file.managed:
    - name: {{ root }}/edge
    - contents: {{ salt['kolla.option']('openstack_tag') }}
    - makedirs: true
{%- endif %}
