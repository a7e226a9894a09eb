//! The files that are generated from the types and committed: the CustomResourceDefinitions and the JSON Schemas.

use crate::object::Kind;
use crate::schema;

/// Every generated file: its path below this crate's folder, and what it holds.
pub fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for kind in Kind::ALL {
        if let Some(crd) = schema::crd(kind) {
            let plural = crd["spec"]["names"]["plural"].as_str().expect("a kind has a plural").to_owned();
            let yaml = serde_saphyr::to_string(&crd).expect("JSON can be written as YAML");
            files.push((format!("yaml/{plural}.yaml"), yaml));
        }
        if kind.is_written_by_users() && kind != Kind::EndpointSlice {
            let schema =
                serde_json::to_string_pretty(&schema::json_schema(kind)).expect("JSON can be written");
            files.push((format!("json-schema/{}.json", kind.as_str().to_lowercase()), schema + "\n"));
        }
    }
    files
}
