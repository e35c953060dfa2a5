//! nginx, beyond what `http::servers` asks of it.

use super::{mesh_file, refused_by_name};
use crate::apps::curl;
use crate::http::add_nginx;

#[test]
fn nginx_answers_on_an_http_and_on_a_tcp_port_and_refuses_the_lab() {
    let services = "\
files:
  run: [nginx, -e, stderr, -p, ., -c, nginx.conf]
  ports: {8080: http, 8081: tcp}
  healthy: {port: 8081}
  directory: nginx
";
    let file = mesh_file("", services);
    let both =
        "server { listen 8080; listen [::]:8080; listen 8081; listen [::]:8081; return 200 \"$remote_addr\\n\"; }";
    add_nginx(&file, both);
    let mesh = file.up().unwrap();
    for url in ["http://files:8080/", "http://files:8081/"] {
        for family in ["-4", "-6"] {
            let answer = mesh.exec_ok("web", &curl(&[family, url])).unwrap();
            assert!(answer.contains(['.', ':']), "{answer}");
        }
        refused_by_name(&mesh, &curl(&[url]));
    }
}
