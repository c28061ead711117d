#!yaml|kolla

hosts of the cloud in /etc/hosts:
  kolla_hosts.present: []
