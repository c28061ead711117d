#!yaml|kolla
# Everything is declared in service.yaml; `state.show_sls glance` shows the states.
