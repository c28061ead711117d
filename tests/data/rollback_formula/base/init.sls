#!jinja|yaml
# By hand, since nothing here is to lie in /etc/kolla.
{%- set root = salt['kolla.option']('root') %}
kst_rollback_base/base.conf:
  kolla_config.managed:
    - name: {{ root }}/kst-rollback-base/base.conf
    - service: base
    - container: kst_rollback_base
    - file: base.conf

kst_rollback_base:
  kolla_container.running:
    - image: {{ salt['kolla.option']('base_image') }}
    - volumes: ["{{ root }}/kst-rollback-base/:/var/lib/kolla/config_files/:ro"]
    - environment: {KOLLA_CONFIG_STRATEGY: COPY_ALWAYS}
    - config_dir: {{ root }}/kst-rollback-base
    - ready: {exec: [test, -e, /tmp/ready], timeout: 20}
    - stop_timeout: 5
    - watch:
      - kolla_config: kst_rollback_base/base.conf
