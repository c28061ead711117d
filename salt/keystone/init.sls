#!yaml|kolla
# Everything is declared in service.yaml; `state.show_sls keystone` shows the states.
