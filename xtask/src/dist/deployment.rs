//! What starts vfprobe elsewhere, the systemd unit, the container recipe and the manifests, against each other: the same
//! rights, the same places, and nothing that points nowhere. Whether a cluster takes them is not known here.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::testing::root;
use crate::process::{find_on_path, merged_output};

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The documents of a YAML file.
fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The document of `kind` among those of a file.
fn object(path: &str, kind: &str) -> Value {
    let found: Vec<Value> = yaml(path).into_iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{path}: {kind}");
    found[0].clone()
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap_or_else(|| panic!("{value} is no list"));
    list.iter().map(|word| word.as_str().unwrap_or_else(|| panic!("{word}")).to_owned()).collect()
}

const DAEMON_SET: &str = "packaging/kubernetes/daemonset.yaml";
const SERVICE_MONITOR: &str = "packaging/kubernetes/servicemonitor.yaml";
const COMPOSE: &str = "packaging/container/compose.yaml";
const CONTAINERFILE: &str = "packaging/container/Containerfile";
const COLLECTOR: &str = "packaging/opentelemetry/collector.yaml";

fn pod() -> Value {
    object(DAEMON_SET, "DaemonSet")["spec"]["template"]["spec"].clone()
}

/// Where `vfprobe serve` listens by default, as its configuration file shows it.
fn listen() -> String {
    let example = text("packaging/vfprobe.toml");
    let line = example.lines().find_map(|line| line.strip_prefix("#listen = ")).expect("a default");
    line.trim_matches('"').to_owned()
}

fn port() -> u64 {
    listen().rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn all_grant_the_same_capabilities_and_the_documents_explain_each() {
    let unit = text("packaging/vfprobe.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let granted: BTreeSet<String> = line.split(' ').map(|word| word.replace("CAP_", "")).collect();
    let security = &pod()["containers"][0]["securityContext"];
    let compose = &yaml(COMPOSE)[0]["services"]["vfprobe"];
    for list in [&security["capabilities"]["add"], &compose["cap_add"]] {
        assert_eq!(strings(list).into_iter().collect::<BTreeSet<_>>(), granted);
    }
    for list in [&security["capabilities"]["drop"], &compose["cap_drop"]] {
        assert_eq!(strings(list), ["ALL"]);
    }
    // A table may name more than is granted at the start.
    for document in ["docs/security.md", "docs/containers.md"] {
        let text = text(document);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `CAP_")).collect();
        for capability in &granted {
            let named = format!("`CAP_{capability}`");
            assert!(
                rows.iter().any(|row| row.split('|').nth(1).unwrap().contains(&named)),
                "{document}: {named}"
            );
        }
    }
}

#[test]
fn containers_can_gain_nothing_and_write_nothing() {
    let pod = pod();
    for (key, expected) in [("hostPID", true), ("hostNetwork", true), ("automountServiceAccountToken", false)]
    {
        assert_eq!(pod[key], expected, "{key}");
    }
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    for (key, expected) in
        [("privileged", false), ("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)]
    {
        assert_eq!(security[key], expected, "{key}");
    }
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    let compose = &yaml(COMPOSE)[0]["services"]["vfprobe"];
    assert_eq!((&compose["read_only"], &compose["pid"]), (&Value::from(true), &Value::from("host")));
    assert!(strings(&compose["security_opt"]).contains(&"no-new-privileges:true".to_owned()));
    // The same folders of the host for both, read-only, and each explained.
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mut mounted = Vec::new();
    for mount in mounts {
        assert_eq!(mount["readOnly"], true, "{mount}");
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        assert_eq!(volume["hostPath"]["path"], mount["mountPath"]);
        mounted.push(mount["mountPath"].as_str().unwrap().to_owned());
    }
    assert_eq!(pod["volumes"].as_array().unwrap().len(), mounted.len());
    let expected: Vec<String> = mounted.iter().map(|path| format!("{path}:{path}:ro")).collect();
    assert_eq!(strings(&compose["volumes"]), expected);
    for path in mounted {
        assert!(text("docs/containers.md").contains(&format!("| `{path}`")), "{path}");
    }
}

/// systemd's own judgement of the unit; versions of systemd differ in the last digit.
#[test]
fn the_documented_exposure_is_what_systemd_says() {
    if find_on_path("systemd-analyze").is_none() {
        println!("SKIP the_documented_exposure_is_what_systemd_says: systemd-analyze is not installed");
        return;
    }
    let figure = |text: &str| -> f64 { text.split(' ').next().unwrap().parse().unwrap() };
    let security = text("docs/security.md");
    let (_, documented) = security.split_once("packaging/vfprobe.service` says ").unwrap();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=yes", "--no-pager"]).arg(root().join("packaging/vfprobe.service"));
    let (_, said) = merged_output(&mut analyze, &mut |_| {}).unwrap();
    let (_, said) =
        said.split_once("exposure level for vfprobe.service: ").unwrap_or_else(|| panic!("{said}"));
    assert!((figure(said) - figure(documented)).abs() < 0.3, "{said} is not {}", figure(documented));
}

/// What they may use is what the unit allows.
#[test]
fn limits_are_those_of_the_unit() {
    let unit = text("packaging/vfprobe.service");
    let limit = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
    let (memory, tasks) = (limit("MemoryMax="), limit("TasksMax="));
    assert_eq!(pod()["containers"][0]["resources"]["limits"]["memory"], format!("{memory}i"));
    let compose = &yaml(COMPOSE)[0]["services"]["vfprobe"];
    assert_eq!(compose["mem_limit"], memory.to_lowercase());
    assert_eq!(compose["pids_limit"].to_string(), tasks);
}

#[test]
fn objects_have_what_kubernetes_asks_for_and_find_each_other() {
    let expected = [
        (DAEMON_SET, &[("v1", "Namespace"), ("v1", "ServiceAccount"), ("apps/v1", "DaemonSet")][..]),
        (SERVICE_MONITOR, &[("v1", "Service"), ("monitoring.coreos.com/v1", "ServiceMonitor")]),
    ];
    for (path, kinds) in expected {
        let objects = yaml(path);
        let found: Vec<(&str, &str)> = objects
            .iter()
            .map(|object| (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()))
            .collect();
        assert_eq!(found, kinds, "{path}");
        for object in &objects {
            assert_eq!(object["metadata"]["name"], "vfprobe");
            let namespace = if object["kind"] == "Namespace" { Value::Null } else { "vfprobe".into() };
            assert_eq!(object["metadata"]["namespace"], namespace, "{}", object["kind"]);
        }
    }
    let daemon_set = object(DAEMON_SET, "DaemonSet");
    let labels = &daemon_set["spec"]["template"]["metadata"]["labels"];
    let service = object(SERVICE_MONITOR, "Service");
    let monitor = object(SERVICE_MONITOR, "ServiceMonitor");
    for (selector, of) in [
        (&daemon_set["spec"]["selector"]["matchLabels"], labels),
        (&service["spec"]["selector"], labels),
        (&monitor["spec"]["selector"]["matchLabels"], &service["metadata"]["labels"]),
    ] {
        for (key, value) in selector.as_object().unwrap() {
            assert_eq!(&of[key], value, "{key}");
        }
    }
    // The label `job` that alerts ask for.
    let key = monitor["spec"]["jobLabel"].as_str().unwrap();
    let job = service["metadata"]["labels"][key].as_str().unwrap();
    assert!(
        text("dashboards/prometheus/vfprobe.alerts.yml").contains(&format!("up{{job=\"{job}\"}}")),
        "{job}"
    );
}

#[test]
fn everyone_asks_at_the_same_port() {
    let daemon_set = object(DAEMON_SET, "DaemonSet");
    let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    let published = &container["ports"][0];
    assert_eq!(published["containerPort"], port());
    let annotations = &daemon_set["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], port().to_string());
    assert_eq!(annotations["prometheus.io/path"], "/metrics");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&Value::from("/healthz"), &published["name"]), "{probe}");
    }
    // A variable is put in only when it stands before its user.
    let variables = container["env"].as_array().unwrap();
    let listen_at = variables.iter().position(|variable| variable["name"] == "VFPROBE_LISTEN").unwrap();
    let value = variables[listen_at]["value"].as_str().unwrap();
    let (name, own_port) = value.strip_prefix("$(").and_then(|rest| rest.split_once("):")).unwrap();
    assert!(variables[..listen_at].iter().any(|variable| variable["name"] == name), "{name}");
    assert_eq!(own_port, port().to_string());
    let service = object(SERVICE_MONITOR, "Service");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], published["name"]);
    let monitor = object(SERVICE_MONITOR, "ServiceMonitor");
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    let target = Value::from(vec![listen()]);
    for scrape in [
        &yaml("dashboards/prometheus/prometheus.yml")[0]["scrape_configs"][0],
        &yaml(COLLECTOR)[0]["receivers"]["prometheus"]["config"]["scrape_configs"][0],
    ] {
        assert_eq!(scrape["job_name"], "vfprobe");
        assert_eq!(scrape["static_configs"][0]["targets"], target);
    }
    assert!(text(CONTAINERFILE).contains(&format!("\nEXPOSE {}\n", port())));
}

#[test]
fn the_compose_file_mounts_what_there_is_where_it_is_looked_for() {
    let compose = &yaml(COMPOSE)[0];
    let folder = root().join("packaging/container");
    let build = &compose["services"]["vfprobe"]["build"];
    let context = folder.join(build["context"].as_str().unwrap());
    assert!(context.join(build["dockerfile"].as_str().unwrap()).is_file());
    let inside = |service: &str| -> BTreeSet<String> {
        let mounts = strings(&compose["services"][service]["volumes"]).into_iter();
        mounts
            .map(|mount| {
                let parts: Vec<&str> = mount.split(':').collect();
                match parts[..] {
                    [source, target, "ro"] => {
                        assert!(folder.join(source).is_dir(), "{source}");
                        target.to_owned()
                    }
                    [volume, target] => {
                        assert!(compose["volumes"].as_object().unwrap().contains_key(volume), "{volume}");
                        target.to_owned()
                    }
                    _ => panic!("{mount}: a folder of the repository is mounted with write access"),
                }
            })
            .collect()
    };
    let dashboards = &yaml("dashboards/provisioning/dashboards/vfprobe.yaml")[0]["providers"][0];
    let place = dashboards["options"]["path"].as_str().unwrap();
    let grafana = inside("grafana");
    for path in [place, "/etc/grafana/provisioning"] {
        assert!(grafana.contains(path), "{path}: {grafana:?}");
    }
    let environment = &compose["services"]["grafana"]["environment"];
    let home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str().unwrap();
    let home = home.strip_prefix(place).unwrap().trim_start_matches('/');
    assert!(root().join("dashboards/grafana").join(home).is_file(), "{home}");
    assert!(inside("prometheus").contains("/etc/prometheus"));
    // Grafana asks where Prometheus listens.
    let source = &yaml("dashboards/provisioning/datasources/prometheus.yaml")[0]["datasources"][0];
    let address = source["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let words = strings(&compose["services"]["prometheus"]["command"]);
    assert!(words.contains(&format!("--web.listen-address={address}")), "{words:?}");
    for file in yaml("dashboards/prometheus/prometheus.yml") {
        for rules in strings(&file["rule_files"]) {
            assert!(root().join("dashboards/prometheus").join(&rules).is_file(), "{rules}");
        }
    }
}

#[test]
fn the_image_has_the_pinned_compiler_s_static_program_alone() {
    let recipe = text(CONTAINERFILE);
    let toolchain = text("rust-toolchain.toml");
    let channel =
        toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(recipe.contains(&format!("\nFROM docker.io/library/rust:{channel}-slim-bookworm AS build\n")));
    assert!(recipe.contains(&format!("\nENV RUSTUP_TOOLCHAIN={channel}\n")));
    assert!(recipe.contains(&format!("\nRUN rustup target add {} \\\n", super::STATIC_TARGET)));
    assert!(recipe.contains(&format!(" {}\n", super::STATIC_COMPILER.package)));
    let (_, image) = recipe.split_once("\nFROM scratch\n").unwrap();
    let packed = super::layout::tarball(root(), &super::testing::made()).unwrap();
    for line in image.lines().filter_map(|line| line.strip_prefix("COPY --from=build ")) {
        let files: Vec<&str> = line.split(' ').collect();
        let (_, sources) = files.split_last().unwrap();
        for source in sources {
            let name = source.strip_prefix("/image/").unwrap();
            assert!(packed.iter().any(|entry| entry.path == name), "{name}");
        }
    }
    assert!(image.contains("\nENTRYPOINT [\"/usr/bin/vfprobe\"]\nCMD [\"serve\"]\n"), "{image}");
}

/// Each part of the Collector's pipeline is there, and nothing is there that no pipeline uses.
#[test]
fn the_collector_s_pipeline_is_whole() {
    let collector = &yaml(COLLECTOR)[0];
    let pipeline = &collector["service"]["pipelines"]["metrics"];
    for kind in ["receivers", "processors", "exporters"] {
        let used: BTreeSet<String> = strings(&pipeline[kind]).into_iter().collect();
        let there: BTreeSet<String> = collector[kind].as_object().unwrap().keys().cloned().collect();
        assert_eq!(used, there, "{kind}");
    }
}
