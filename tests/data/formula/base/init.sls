#!yaml|kolla
# everything is declared in service.yaml
