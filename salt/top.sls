# `state.apply` without a name brings one host to its declared state, all services at once. It knows no order between
# hosts: for a first deployment and for changes that concern several hosts use `kolla-salt deploy`.
base:
  'I@kolla:topology':
    - match: compound
{%- for name in salt['kolla_node.services']() %}
    - {{ name }}
{%- endfor %}
