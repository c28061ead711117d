#!yaml|kolla
# The declaration holds options only.
