use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Environment, Loaded, load};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tier {
    memory_mib: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Own {
    #[serde(with = "humantime_serde")]
    restore_min_target_age: Duration,
    parallel: u16,
    api_token: Option<String>,
    small: Tier,
}

impl Default for Own {
    fn default() -> Self {
        Own {
            restore_min_target_age: Duration::from_secs(120),
            parallel: 4,
            api_token: None,
            small: Tier { memory_mib: 256 },
        }
    }
}

fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Loaded<Own>, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("zektor.toml");
    std::fs::write(&file, text).unwrap();
    let environment = Environment::of(variables.iter().copied());
    load(Some(&file), &environment).map_err(|error| error.to_string())
}

#[test]
fn defaults_then_file_then_environment() {
    let loaded = load::<Own>(None, &Environment::of([("HOME", "/home/z")])).unwrap();
    assert_eq!(loaded.own, Own::default());
    assert_eq!(loaded.common.nats_url, "nats://127.0.0.1:4222");
    assert_eq!(loaded.common.home, Path::new("/home/z/.zektor"));
    assert_eq!(
        loaded.common.repository_url,
        "file:///home/z/.zektor/repository"
    );
    assert_eq!(loaded.common.http_listen.to_string(), "127.0.0.1:0");

    let file = "parallel = 8\nshutdown_timeout = \"5s\"\nnats_url = \"nats://file:1\"\n\
                restore_min_target_age = \"1h 30m\"\n[small]\nmemory_mib = 64\n";
    let variables = [
        ("ZEKTOR_NATS_URL", "nats://variable:1"),
        ("ZEKTOR_PARALLEL", "16"),
        ("ZEKTOR_SMALL__MEMORY_MIB", "128"),
        ("ZEKTOR_WORKER_NAME", "7"),
        ("ZEKTOR_CATALOG_URL", ""),
        ("ZEKTOR_HOME", "/srv"),
        ("ZEKTOR_SOMEBODY_ELSES", "x"),
    ];
    let loaded = load_text(file, &variables).unwrap();
    assert_eq!(loaded.own.parallel, 16);
    assert_eq!(loaded.own.small.memory_mib, 128);
    assert_eq!(loaded.own.restore_min_target_age, Duration::from_secs(5400));
    assert_eq!(loaded.common.shutdown_timeout, Duration::from_secs(5));
    assert_eq!(loaded.common.nats_url, "nats://variable:1");
    assert_eq!(loaded.common.worker_name, "7");
    assert_eq!(loaded.common.catalog_url, "sqlite:///srv/catalog.sqlite");
}

#[test]
fn a_wrong_value_is_refused_by_its_name() {
    let refused = |text, variables: &[_], words: &[&str]| {
        let error = load_text(text, variables).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{error:?} does not say {word:?}");
        }
    };
    refused(
        "",
        &[("ZEKTOR_PARALLEL", "many")],
        &["ZEKTOR_PARALLEL", "many", "integer"],
    );
    refused(
        "",
        &[("ZEKTOR_SHUTDOWN_TIMEOUT", "soon")],
        &["ZEKTOR_SHUTDOWN_TIMEOUT", "soon", "duration"],
    );
    refused(
        "",
        &[("ZEKTOR_HTTP_LISTEN", "everywhere")],
        &["ZEKTOR_HTTP_LISTEN", "socket address"],
    );
    refused(
        "",
        &[("ZEKTOR_SMALL__MEMORY_MIB", "x")],
        &["ZEKTOR_SMALL__MEMORY_MIB"],
    );
    refused(
        "parallel = \"x\"",
        &[],
        &["the key parallel in", "zektor.toml"],
    );
    refused(
        "paralel = 1",
        &[],
        &["unknown key \"paralel\"", "parallel", "nats_url"],
    );
    refused("parallel = ", &[], &["zektor.toml", "not valid TOML"]);
    let error = load::<Own>(Some(Path::new("/nowhere.toml")), &Environment::default());
    assert!(error.unwrap_err().to_string().contains("/nowhere.toml"));
}

#[test]
fn what_is_printed_can_be_read_back_and_holds_no_secret() {
    let variables = [
        ("ZEKTOR_CATALOG_URL", "postgres://z:geheim@db/catalog"),
        ("ZEKTOR_API_TOKEN", "geheim"),
    ];
    let loaded = load_text("", &variables).unwrap();
    let printed = loaded.concealed();
    assert!(!printed.contains("geheim"), "{printed}");
    assert!(printed.contains("postgres://z:***@db/catalog"), "{printed}");
    assert!(
        printed.contains("restore_min_target_age = \"2m\""),
        "{printed}"
    );
    let again = load_text(&printed, &[]).unwrap();
    assert_eq!(again.own.small, loaded.own.small);
    assert_eq!(again.common.home, loaded.common.home);
}
