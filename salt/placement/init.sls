#!yaml|kolla
# Everything is declared in service.yaml; `state.show_sls placement` shows the states.
