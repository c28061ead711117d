#!jinja|yaml
# By hand, since nothing here is to lie in /etc/kolla.
{%- set root = salt['kolla.option']('root') %}
kst_rollback_web/web.conf:
  kolla_config.managed:
    - name: {{ root }}/kst-rollback-web/web.conf
    - service: web
    - container: kst_rollback_web
    - file: web.conf

kst_rollback_web:
  kolla_container.running:
    - image: {{ salt['kolla.option']('web_image') }}
    - volumes: ["{{ root }}/kst-rollback-web/:/var/lib/kolla/config_files/:ro"]
    - environment: {KOLLA_CONFIG_STRATEGY: COPY_ALWAYS}
    - config_dir: {{ root }}/kst-rollback-web
    - ready: {exec: [test, -e, /tmp/ready], timeout: 20}
    - stop_timeout: 5
    - watch:
      - kolla_config: kst_rollback_web/web.conf
