# The same as orch.deploy, under the name operators look for when they changed an option of a running cloud.
{%- set verb = 'reconfigure' %}
{% include 'orch/deploy.sls' %}
