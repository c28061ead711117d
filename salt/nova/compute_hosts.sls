#!yaml
# After nova-compute was started on all hosts: instances are scheduled to hosts that belong to a cell.
nova compute hosts:
  kolla_nova.hosts_mapped: []
