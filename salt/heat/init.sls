#!yaml|kolla
# Everything is declared in service.yaml; `state.show_sls heat` shows the states.
