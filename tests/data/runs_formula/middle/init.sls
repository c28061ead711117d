#!jinja|yaml|kolla
{%- set root = salt['kolla.option']('root') ~ '/' ~ grains.id %}
{%- if salt['kolla.option']('broken') == 'middle' %}
middle breaks:
  test.fail_without_changes:
    - name: on purpose
{%- else %}
middle file:
  file.managed:
    - name: {{ root }}/middle
    - contents: {{ salt['kolla.option']('openstack_tag') }}
    - makedirs: true
{%- endif %}
