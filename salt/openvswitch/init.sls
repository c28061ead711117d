#!jinja|yaml|kolla
{% set declared = salt['kolla_openvswitch.declared']() %}
{% if declared %}
openvswitch settings for the start:
  kolla_openvswitch.settings_present:
    - other_config: {{ declared.other_config | tojson }}
    - for_start: true
    - require: [{kolla_container: openvswitch_db}]
    - {{ declared.requisite }}: [{kolla_container: openvswitch_vswitchd}]

openvswitch settings:
  kolla_openvswitch.settings_present:
    - external_ids: {{ declared.external_ids | tojson }}
    - require: [{kolla_container: openvswitch_vswitchd}]
{% for item in declared.bridges %}

openvswitch bridge {{ item.bridge }}:
  kolla_openvswitch.bridge_present:
    - name: {{ item.bridge }}
    - datapath_type: {{ item.datapath_type }}
    - require: [{kolla_openvswitch: openvswitch settings}]

openvswitch port {{ item.card }}:
  kolla_openvswitch.port_present:
    - name: {{ item.card }}
    - bridge: {{ item.bridge }}
    - require: [{kolla_openvswitch: openvswitch bridge {{ item.bridge }}}]
{% endfor %}
{% for bridge, address in declared.addresses.items() %}

openvswitch address of {{ bridge }}:
  kolla_openvswitch.address_present:
    - name: {{ bridge }}
    - address: {{ address }}
    - require: [{kolla_openvswitch: openvswitch bridge {{ bridge }}}]
{% endfor %}
{% endif %}
