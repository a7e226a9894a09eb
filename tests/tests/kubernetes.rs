//! Against a real kube-apiserver: one server for all, since starting it takes seconds.

use bascule_tests::api_server::ApiServer;

#[test]
fn against_a_real_api_server() {
    let server = ApiServer::start().unwrap();
    println!("{}", server.kubectl_ok(["version"]).unwrap());
    println!("{}", server.kubectl_ok(["get", "namespaces"]).unwrap());
}
