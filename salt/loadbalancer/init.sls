#!yaml|kolla
