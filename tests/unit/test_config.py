"""Rendering of configuration files from a declaration, templates and overrides."""

import json
import textwrap

import pytest

from kolla_salt import config, declarations
from kolla_salt.context import Resolver

KOLLA = """
settings:
  internal_vip_address: {default: 10.0.0.10, type: string}
  enable_tls_internal: {default: false, type: bool}
  enable_tls_external: {default: false, type: bool}
  internal_fqdn: {default: "{{ internal_vip_address }}", type: string}
  external_fqdn: {default: "{{ internal_vip_address }}", type: string}
  database_address: {default: 10.0.0.10, type: string}
  database_port: {default: 3306, type: int}
  image_workers: {default: 3, type: int}
"""
SERVICE = """
project: glance
groups: {image: [control]}
secrets: [image_database_password, image_keystone_password]
passwords: {image_database_password: , image_keystone_password: }
database: [{name: image}]
logs: ["*.log"]
settings: {image_cache: {default: false, type: bool}}
containers:
  image_api:
    user: glance
    command: >-
      image-api
        --workers {{ image_workers }}
    directories:
      - {path: /var/lib/image, perm: "2770", owner: "glance:kolla"}
      - {path: /var/lib/none, when: image_cache}
    permissions:
      - {path: "/var/lib/{{ project }}", recurse: true}
    files:
      image.conf: {oslo: true}
      rules.cfg: {vars: {colour: "{{ 'red' if image_workers > 2 else 'blue' }}"}, perm: "0640", owner: "root:glance"}
      cache.conf: {when: image_cache}
      policy.yaml: {optional: true}
      flags.cnf: {dest: /etc/my.cnf}
"""
TEMPLATES = {
    "image.conf.j2": "[DEFAULT]\nworkers = {{ image_workers }}\nurl = {{ database_url('image') }}\n",
    "rules.cfg.j2": "colour {{ colour }} for {{ container }} on {{ host }}\n",
    "cache.conf.j2": "[a]\nb = 1\n",
    "flags.cnf.j2": "[mysqld]\nskip-name-resolve\n",
}


@pytest.fixture
def formula(tmp_path, monkeypatch):
    """A function that writes a formula with one service and returns a function that makes resolvers for it."""
    root = tmp_path / "formula"
    monkeypatch.setenv("KOLLA_SALT_FORMULA", str(root))
    monkeypatch.setenv("KOLLA_SALT_CACHE_DIR", str(tmp_path / "cache"))

    def make(service=SERVICE, **templates):
        (root / "kolla").mkdir(parents=True, exist_ok=True)
        (root / "image" / "files").mkdir(parents=True, exist_ok=True)
        (root / "kolla" / "service.yaml").write_text(KOLLA)
        (root / "image" / "service.yaml").write_text(textwrap.dedent(service))
        for name, text in {**TEMPLATES, **templates}.items():
            (root / "image" / "files" / name).write_text(text)

        def resolver(overrides=None, passwords=None, **options):
            site = {
                "globals": options,
                "topology": {
                    "hosts": {"ctl1": {"addresses": {"api": "10.0.0.11"}}},
                    "groups": {"control": ["ctl1"]},
                },
                "passwords": passwords or {"image_database_password": "db:pw", "image_keystone_password": "kspw"},
                "overrides": overrides or {},
            }
            return Resolver(declarations.load(), site, "ctl1")

        return resolver

    return make


def render(resolver, file="image.conf"):
    return config.render(resolver, "image", "image_api", file)


def test_a_template_is_rendered_with_options_and_secrets(formula):
    rendered = render(formula()())
    assert rendered.content == ("[DEFAULT]\nworkers = 3\nurl = mysql+pymysql://image:db%3Apw@10.0.0.10:3306/image\n")
    assert rendered.secrets == {"image_database_password"}
    assert rendered.sources == ["image/files/image.conf.j2"]
    assert rendered.mode == 0o660


def test_variables_of_a_file_reach_its_template(formula):
    assert render(formula()(), "rules.cfg").content == "colour red for image_api on ctl1\n"
    assert render(formula()(image_workers=1), "rules.cfg").content == "colour blue for image_api on ctl1\n"


def test_overrides_are_merged_by_precedence(formula):
    overrides = {
        "glance/ctl1/image.conf": "[DEFAULT]\nd = host\n",
        "glance/image-api.conf": "[DEFAULT]\nc = component\nd = component\n",
        "glance.conf": "[DEFAULT]\nb = project\nc = project\n",
        "global.conf": "[DEFAULT]\nworkers = 9\nb = global\n",
        "glance/other.conf": "[DEFAULT]\nworkers = 77\n",
    }
    rendered = render(formula()(overrides))
    assert rendered.content.splitlines()[1:] == [
        "workers = 9",
        "url = mysql+pymysql://image:db%3Apw@10.0.0.10:3306/image",
        "b = project",
        "c = component",
        "d = host",
    ]
    assert rendered.sources == [
        "image/files/image.conf.j2",
        "overrides/global.conf",
        "overrides/glance.conf",
        "overrides/glance/image-api.conf",
        "overrides/glance/ctl1/image.conf",
    ]


def test_overrides_are_templates_and_their_secrets_count(formula):
    overrides = {"glance.conf": "[x]\n{% if image_workers > 2 %}\np = {{ image_keystone_password }}\n{% endif %}\n"}
    rendered = render(formula()(overrides))
    assert "[x]\np = kspw\n" in rendered.content
    assert rendered.secrets == {"image_database_password", "image_keystone_password"}


def test_a_text_override_replaces_the_template(formula):
    resolver = formula(**{"rules.cfg.j2": "{{ broken }}"})({"glance/rules.cfg": "mine {{ colour }}"})
    assert render(resolver, "rules.cfg").content == "mine red\n"
    assert render(resolver, "rules.cfg").sources == ["overrides/glance/rules.cfg"]


def test_an_optional_file_exists_only_with_an_override(formula):
    make = formula()
    assert render(make(), "policy.yaml") is None
    assert "policy.yaml" not in config.files_of(make(), "image", "image_api")
    resolver = make({"glance/policy.yaml": "a: b\n"})
    assert render(resolver, "policy.yaml").content == "a: b\n"
    assert config.files_of(resolver, "image", "image_api") == [
        "config.json", "image.conf", "rules.cfg", "policy.yaml", "flags.cnf",
    ]  # fmt: skip


def test_my_cnf_may_have_flags(formula):
    assert render(formula()(), "flags.cnf").content == "[mysqld]\nskip-name-resolve\n"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("[a]\nx = {{ image_wokers }}\n", ["image.conf.j2, line 2", "'image_wokers'", "did you mean 'image_workers'"]),
        ("[a]\n\nx = {{ colour.shade }}\n", ["image.conf.j2, line 3", "'colour'"]),
        ("[a]\n{% if %}\n", ["image/files/image.conf.j2, line 2"]),
        ("[a]\nx = {{ image_workers + 'a' }}\n", ["image.conf.j2, line 2", "TypeError"]),
        (
            "[a]\n{% include 'image/files/none.j2' %}\n",
            ["no template image/files/none.j2", "used by image/files/image"],
        ),
        ("{% include 'image/files/rules.cfg.j2' %}\n", ["image/files/rules.cfg.j2, line 1", "'colour'"]),
        ("[a]\nx = {{ secret('image_pasword') }}\n", ["image.conf.j2, line 2", "image_pasword", "genpwd"]),
        ("[a]\nx = {{ database_url('imag') }}\n", ["image.conf.j2, line 2", "did you mean 'image'"]),
        ("[a]\nnonsense\n", ["image/files/image.conf.j2, line 2", "no '='"]),
    ],
)
def test_an_error_in_a_template_names_file_line_and_remedy(formula, template, says):
    resolver = formula(**{"image.conf.j2": template})()
    with pytest.raises(config.ConfigError) as caught:
        render(resolver)
    for part in [*says, "image_api", "image.conf"]:
        assert part in str(caught.value)
    assert "db:pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a]\nx = {{ image_wokers }}\n", ["overrides/glance.conf, line 2", "did you mean 'image_workers'"]),
        ("[a]\n{% endif %}\n", ["overrides/glance.conf, line 2"]),
        ("[a]\nx\n", ["overrides/glance.conf, line 2", "no '='"]),
    ],
)
def test_an_error_in_an_override_names_its_path_and_line(formula, text, says):
    with pytest.raises(config.ConfigError) as caught:
        render(formula()({"glance.conf": text}))
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("imag", "image_api", "image.conf"), "did you mean 'image'"),
        (("image", "image_apis", "image.conf"), "did you mean 'image_api'"),
        (("image", "image_api", "images.conf"), "did you mean 'image.conf'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(formula, arguments, says):
    with pytest.raises(config.ConfigError, match=says):
        config.render(formula()(), *arguments)


def test_config_json_follows_from_the_declaration(formula):
    text = config.config_json(formula()(), "image", "image_api")
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "command": "image-api --workers 3",
        "config_files": [
            {
                "source": "/var/lib/kolla/config_files/image.conf",
                "dest": "/etc/glance/image.conf",
                "owner": "glance",
                "perm": "0600",
            },
            {
                "source": "/var/lib/kolla/config_files/rules.cfg",
                "dest": "/etc/glance/rules.cfg",
                "owner": "root:glance",
                "perm": "0640",
            },
            {
                "source": "/var/lib/kolla/config_files/flags.cnf",
                "dest": "/etc/my.cnf",
                "owner": "glance",
                "perm": "0600",
            },
        ],
        "directories": [
            {"path": "/var/log/kolla/glance", "owner": "glance:kolla", "perm": "0o2775"},
            {"path": "/var/lib/image", "owner": "glance:kolla", "perm": "0o2770"},
        ],
        "permissions": [
            {"path": "/var/log/kolla/glance", "owner": "glance:kolla", "perm": "0o2775"},
            {"path": "/var/lib/image", "owner": "glance:kolla", "perm": "0o2770"},
            {"path": "/var/log/kolla/glance", "owner": "glance:kolla", "recurse": True},
            {"path": "/var/lib/glance", "owner": "glance", "recurse": True},
        ],
    }


def test_config_json_has_a_file_only_while_it_exists(formula):
    make = formula()
    with_both = config.config_json(make({"glance/policy.yaml": "a: b\n"}, image_cache=True), "image", "image_api")
    names = [entry["dest"] for entry in json.loads(with_both)["config_files"]]
    assert "/etc/glance/policy.yaml" in names
    assert "/etc/glance/cache.conf" in names
    assert render(make(), "config.json").content == config.config_json(make(), "image", "image_api")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('perm: "0640"', 'perm: "640"', "four octal digits"),
        ('perm: "0640"', 'perm: "2640"', "four octal digits"),
        ('owner: "root:glance"', 'owner: "0:0"', "by name"),
        ('perm: "2770"', "perm: 2770", "octal digits as a string"),
        ("recurse: true}", "recursive: true}", "expected path, owner, perm, recurse, when"),
    ],
)
def test_what_no_image_would_accept_is_refused(formula, before, after, says):
    assert before in SERVICE
    with pytest.raises(config.ConfigError, match=says):
        config.config_json(formula(SERVICE.replace(before, after))(), "image", "image_api")


def test_the_images_own_check_accepts_config_json(formula, tmp_path):
    """Every mode in config.json is in a form that released images read as what it says."""
    data = json.loads(config.config_json(formula()(), "image", "image_api"))
    for entry in data["config_files"]:
        assert int(entry["perm"], 8) == int(entry["perm"], 0 if entry["perm"].startswith("0o") else 8)
        assert len(entry["perm"]) == 4
    for entry in [*data["directories"], *data["permissions"]]:
        if "perm" in entry:
            assert entry["perm"].startswith(("0o", "0"))


def test_paths_of_a_shared_directory_are_those_of_all_its_containers(formula):
    shared = SERVICE + "  image_two:\n    component: image-api\n    command: x\n    files: {two.conf: {}}\n"
    assert config.paths_of(formula(shared)(), "image", "image-api") == {
        "config.json", "image.conf", "rules.cfg", "flags.cnf", "two.conf",
    }  # fmt: skip
