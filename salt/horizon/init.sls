#!yaml|kolla
# Everything is declared in service.yaml; `state.show_sls horizon` shows the states.
