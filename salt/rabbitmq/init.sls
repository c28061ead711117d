#!yaml|kolla
# Queues that were made without this member, or lost it with its data.
rabbitmq has its queues:
  kolla_rabbitmq.copies_present:
    - require:
      - kolla_container: rabbitmq
