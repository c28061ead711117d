#!jinja|yaml|kolla
# A first start takes its time; other services of the wave need not wait for it.
{% set new = not salt['kolla_mariadb.lookup']()['data'] %}

# Only the first member of a cluster that does not exist yet makes a database; the others get it from it.
bootstrap_mariadb:
  kolla_mariadb.prepared:
    - parallel: {{ new }}
    - require:
      - kolla_config: mariadb/config.json
      - kolla_config: mariadb/galera.cnf
    - require_in:
      - kolla_container: mariadb

mariadb is in its cluster:
  kolla_mariadb.joined:
    - parallel: {{ new }}
    - require:
      - kolla_container: mariadb
