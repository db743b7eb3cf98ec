//! The OpenAPI document: checked in as it is served, with every route, and true of what the API answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod fake;

use blxrep::api::routes::document::openapi;
use blxrep::api::socket::{connect, socket_path};
use fake::FakeDispatcher;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;

/// Writes the document instead of comparing it.
const RENEW: &str = "BLXREP_RENEW_OPENAPI";
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

fn document() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

#[test]
fn the_document_that_is_checked_in_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let mut text = serde_json::to_string_pretty(&document()).unwrap();
    text.push('\n');
    if std::env::var_os(RENEW).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let same = std::fs::read_to_string(&path).unwrap() == text;
    assert!(same, "docs/openapi.json is stale: run `{RENEW}=1 cargo test -p blxrep --test openapi`");
    let dispatcher = FakeDispatcher::start();
    let (status, served) = ask(&dispatcher, "GET", "/api/v1/openapi.json", "");
    assert_eq!((status, served), (200, document()));
}

/// Method and path of every operation in the document.
fn described() -> BTreeSet<(String, String)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = METHODS.iter().filter(|method| item.get(**method).is_some());
        methods.map(|method| ((*method).to_owned(), path.clone()))
    });
    operations.collect()
}

/// Method and path of every route in the sources.
fn routed() -> BTreeSet<(String, String)> {
    let source = include_str!("../src/api/routes/mod.rs").replace("METRICS_PATH", "\"/metrics\"");
    let (_, router) = source.split_once("pub fn router<").unwrap();
    let (router, _) = router.split_once(".with_state").unwrap();
    let mut found = BTreeSet::new();
    for route in router.split(".route(").skip(1) {
        let (_, route) = route.split_once('"').unwrap();
        let (path, handlers) = route.split_once('"').unwrap();
        for method in METHODS.iter().filter(|method| handlers.contains(&format!("{method}("))) {
            found.insert(((*method).to_owned(), path.to_owned()));
        }
    }
    found
}

#[test]
fn every_route_is_described_and_everything_described_is_a_route() {
    assert_eq!(described(), routed());
    assert!(described().len() > 30);
}

#[test]
fn everything_has_a_summary_and_its_errors() {
    let document = document();
    for (method, path) in described() {
        let operation = &document["paths"][&path][&method];
        assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        for status in ["200", "400", "403", "404", "409", "500", "503"] {
            assert!(operation["responses"][status].is_object(), "{method} {path} lacks {status}");
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let fields = schema["properties"].as_object();
        assert!(fields.is_none_or(|fields| !fields.is_empty()), "{name} has no fields");
    }
}

/// Status and body of an answer.
fn ask(dispatcher: &FakeDispatcher, method: &str, target: &str, body: &str) -> (u16, Value) {
    let mut stream = connect(&socket_path(dispatcher.path())).unwrap();
    stream.set_nonblocking(false).unwrap();
    let length = body.len();
    let head = "host: x\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{method} {target} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{method} {target}: {e}: {answer}")))
}

#[test]
fn a_route_says_which_methods_and_values_it_takes() {
    let dispatcher = FakeDispatcher::start();
    let (status, body) = ask(&dispatcher, "PUT", "/api/v1/points", "");
    assert_eq!((status, &body["error"]["code"]), (405, &Value::from("not_found")));
    assert_eq!(ask(&dispatcher, "PUT", "/api/v1/nothing", "").0, 404);
    let document = document();
    let bounds = |path: &str, name: &str| {
        let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        parameters.iter().find(|parameter| parameter["name"] == name).unwrap()["schema"].clone()
    };
    let limit = bounds("/api/v1/points", "limit");
    assert_eq!((&limit["minimum"], &limit["maximum"]), (&Value::from(1), &Value::from(1000)));
    assert_eq!(bounds("/api/v1/points/{point}", "point")["pattern"], "^[0-9A-Fa-f]{4,16}$");
}

/// What of a value does not fit a schema: as much of JSON Schema as the document uses. `strict` takes no field that is not
/// described.
fn misfits(document: &Value, schema: &Value, value: &Value, at: &str, strict: bool) -> Vec<String> {
    let below = |schema: &Value, value: &Value, at: &str| misfits(document, schema, value, at, strict);
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#'));
        return below(schema.unwrap_or_else(|| panic!("{name} leads nowhere")), value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let fits = choices.iter().any(|choice| below(choice, value, at).is_empty());
        return if fits { Vec::new() } else { vec![format!("{at}: {value} is none of {choices:?}")] };
    }
    let mut found = Vec::new();
    if let Some(parts) = schema["allOf"].as_array() {
        // Each describes some of the fields.
        let loose = |part| misfits(document, part, value, at, false);
        found.extend(parts.iter().flat_map(loose));
        return found;
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !kinds.is_empty() && !kinds.contains(&kind) {
        found.push(format!("{at}: {value} is a {kind}, not {kinds:?}"));
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        found.push(format!("{at}: {value} is none of {choices:?}"));
    }
    if let (Value::Array(items), Some(_)) = (value, schema.get("items")) {
        found.extend(
            items
                .iter()
                .enumerate()
                .flat_map(|(n, item)| below(&schema["items"], item, &format!("{at}/{n}"))),
        );
    }
    let (Value::Object(fields), Some(described)) = (value, schema["properties"].as_object()) else {
        return found;
    };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            found.push(format!("{at} lacks {name}"));
        }
    }
    for (name, value) in fields {
        match described.get(name) {
            Some(schema) => found.extend(below(schema, value, &format!("{at}/{name}"))),
            None if strict => found.push(format!("{at}/{name} is not described")),
            None => {}
        }
    }
    found
}

#[test]
fn what_is_answered_fits_its_description() {
    let dispatcher = FakeDispatcher::start();
    let document = document();
    let point = "9a00111122223333";
    let action = "ac00000000000001";
    let restore = format!(r#"{{"point":"{point}","to":"/nonexistent/x.img"}}"#);
    let mount = format!(r#"{{"point":"{point}","directory":"/mnt/x"}}"#);
    let export = format!(r#"{{"point":"{point}","address":"127.0.0.1:10809"}}"#);
    // Every operation but those that answer with no JSON of one type.
    let asked = [
        ("GET", "/api/v1/status", "", ""),
        ("GET", "/api/v1/agents", "", ""),
        ("GET", "/api/v1/agents/{agent}", "web1", ""),
        ("GET", "/api/v1/disks", "", ""),
        ("GET", "/api/v1/policies", "", ""),
        ("GET", "/api/v1/points", "", ""),
        ("GET", "/api/v1/points?newest=2", "", ""),
        ("GET", "/api/v1/points/{point}", point, ""),
        ("GET", "/api/v1/points/{point}/chain", point, ""),
        ("GET", "/api/v1/points/{point}/partitions", point, ""),
        ("GET", "/api/v1/points/{point}/files?partition=2&path=/home/ada", point, ""),
        ("GET", "/api/v1/points/{point}/find?pattern=*", point, ""),
        ("GET", "/api/v1/points/{point}/diff?with=4f0c2a9b01", point, ""),
        ("POST", "/api/v1/mounts", "", &mount),
        ("GET", "/api/v1/mounts", "", ""),
        ("DELETE", "/api/v1/mounts?directory=/mnt/x", "", ""),
        ("POST", "/api/v1/exports", "", &export),
        ("GET", "/api/v1/exports", "", ""),
        ("DELETE", "/api/v1/exports?uri=nbd://127.0.0.1:10809", "", ""),
        ("GET", "/api/v1/actions", "", ""),
        ("GET", "/api/v1/actions/{action}", action, ""),
        ("GET", "/api/v1/actions/{action}/report", action, ""),
        ("POST", "/api/v1/actions/{action}/pause", action, ""),
        ("POST", "/api/v1/actions/{action}/resume", action, ""),
        ("POST", "/api/v1/snapshots", "", r#"{"agent":"web1","disk":"sda"}"#),
        ("POST", "/api/v1/syncs", "", r#"{"agent":"web1","disk":"sda","wait":true}"#),
        ("POST", "/api/v1/restores", "", &restore),
        ("POST", "/api/v1/verifications", "", "{}"),
        ("POST", "/api/v1/verifications/source", "", r#"{"agent":"web1"}"#),
        ("POST", "/api/v1/consolidations", "", "{}"),
        ("GET", "/api/v1/consolidations/plan", "", ""),
        ("POST", "/api/v1/actions/{action}/cancel", action, ""),
    ];
    for (method, target, name, body) in asked {
        let path = target.split('?').next().unwrap();
        let start = target.find('{').unwrap_or(target.len());
        let end = target.find('}').map_or(target.len(), |end| end + 1);
        let filled = format!("{}{name}{}", &target[..start], &target[end..]);
        let (status, answer) = ask(&dispatcher, method, &filled, body);
        assert_eq!(status, 200, "{method} {filled}: {answer}");
        let operation = &document["paths"][path][method.to_lowercase()];
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path}: {operation}");
        let wrong = misfits(&document, schema, &answer, &filled, true);
        assert!(wrong.is_empty(), "{wrong:#?}\n{schema}\n{answer}");
        if !body.is_empty() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let body = serde_json::from_str(body).unwrap();
            assert!(misfits(&document, schema, &body, path, true).is_empty(), "{method} {path}: {schema}");
        }
    }
    let (status, answer) = ask(&dispatcher, "GET", "/api/v1/points/beef", "");
    let schema = &document["paths"]["/api/v1/points/{point}"]["get"]["responses"]["404"];
    let schema = &schema["content"]["application/json"]["schema"];
    assert_eq!((status, misfits(&document, schema, &answer, "beef", true)), (404, Vec::new()));
    // The check finds what it is for.
    let broken = serde_json::json!({ "error": { "code": "odd", "message": 7, "more": null } });
    assert_eq!(misfits(&document, schema, &broken, "broken", true).len(), 3);
}
