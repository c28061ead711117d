#!yaml
# Feature flags of a release are enabled when there is no way back from it any more.
rabbitmq feature flags:
  kolla_rabbitmq.flags_enabled: []
