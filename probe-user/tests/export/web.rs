//! TLS and passwords against a client that shares no code with the server: curl.

use crate::http::{GENEROUS, HANG, Server, read_to_close};
use crate::made_up::MadeUp;
use probe_user::export::{http::Limits, web::Web};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{fs, path::Path, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command};

/// The password of `prom` is `secret`; the hash is from crypt(3).
const USERS: &str =
    "basic_auth_users:\n  prom: $2y$04$5VjZVGsbvv1CGpbwn2xcVeOqZVhLU8xt9sUdR4ybwNG/ZHHfsytvC\n";
const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

/// Makes a CA, and a certificate of it for `name`.
fn certificate(dir: &Path, ca: &str, cert: &str, key: &str, name: &str) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("CA of {name}"));
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let signed = params.signed_by(&own, &issuer).unwrap();
    fs::write(dir.join(ca), issuer.pem()).unwrap();
    fs::write(dir.join(cert), signed.pem()).unwrap();
    fs::write(dir.join(key), own.serialize_pem()).unwrap();
}

/// A folder with a server's CA, certificate and key, and a client's.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "ca.pem", "cert.pem", "key.pem", "localhost");
    certificate(dir.path(), "clients.pem", "client.pem", "client-key.pem", "client");
    dir
}

fn read(dir: &Path, text: &str) -> Web {
    let path = dir.join("web.yml");
    fs::write(&path, text).unwrap();
    Web::read(&path).unwrap()
}

/// Whether curl is there; a missing one is said in the name of `test`.
fn there(test: &str) -> bool {
    if std::process::Command::new("curl").arg("--version").output().is_ok() {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "curl is not installed");
    println!("SKIP {test}: curl is not installed");
    false
}

/// What curl gets: its exit code (0, or why there is no answer), the status, and the head.
async fn curl(server: &Server, dir: &Path, url: &str, options: &str) -> (i32, String) {
    let url = url.replace("HOST", &format!("localhost:{}", server.address.port()));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--include", "--noproxy", "*", "--ipv4", "--max-time", "30"]);
    let output = curl.args(options.split_whitespace()).arg(url).current_dir(dir).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn passwords() {
    if !there("passwords") {
        return;
    }
    let dir = folder();
    let headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n";
    let web = read(dir.path(), &format!("{USERS}{headers}"));
    let server = Server::guarded(MadeUp::usual(), GENEROUS, web).await;
    let refused = "HTTP/1.1 401 Unauthorized\r\n";
    for (path, options, line) in [
        ("metrics", "--user prom:secret", "HTTP/1.1 200 OK\r\n"),
        ("metrics", "--user prom:secret --head", "HTTP/1.1 200 OK\r\n"),
        ("metrics", "", refused),
        ("healthz", "", refused),
        ("", "", refused),
        ("no-such-path", "", refused),
        ("metrics", "--user prom:wrong", refused),
        ("metrics", "--user root:secret", refused),
        ("metrics", "--user prom:secret --request POST", "HTTP/1.1 405 Method Not Allowed\r\n"),
    ] {
        let (code, text) = curl(&server, dir.path(), &format!("http://HOST/{path}"), options).await;
        assert_eq!(code, 0, "{path} {options}");
        assert!(text.starts_with(line), "{path} {options}: {text}");
        assert!(text.contains("x-frame-options: deny\r\n"), "{text}");
        assert_eq!(text.contains("www-authenticate: Basic realm=\"vfprobe\"\r\n"), line == refused);
        assert_eq!(text.contains("vfprobe_up"), line != refused && options == "--user prom:secret", "{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn encrypted_to_who_knows_the_ca() {
    if !there("encrypted_to_who_knows_the_ca") {
        return;
    }
    let dir = folder();
    let server = Server::guarded(MadeUp::usual(), GENEROUS, read(dir.path(), &format!("{TLS}{USERS}"))).await;
    let user = "--user prom:secret";
    for (url, options, expected) in [
        ("https://HOST/metrics", format!("--cacert ca.pem {user}"), 0),
        ("https://HOST/metrics", format!("--cacert ca.pem {user} --tlsv1.3"), 0),
        ("https://HOST/metrics", format!("--cacert ca.pem {user} --tls-max 1.2"), 0),
        // 60: the server's certificate is not trusted.
        ("https://HOST/metrics", format!("--cacert clients.pem {user}"), 60),
        ("https://HOST/metrics", user.to_owned(), 60),
        // 35: no agreement on TLS.
        ("https://HOST/metrics", "--cacert ca.pem --tls-max 1.1".to_owned(), 35),
    ] {
        let (code, text) = curl(&server, dir.path(), url, &options).await;
        assert_eq!(code, expected, "{options}: {text}");
        assert_eq!(text.contains("vfprobe_up 1\n"), expected == 0, "{options}: {text}");
    }
    let (code, text) = curl(&server, dir.path(), "https://HOST/metrics", "--cacert ca.pem").await;
    assert_eq!((code, text.starts_with("HTTP/1.1 401 ")), (0, true), "{text}");
    // In the clear there is no answer.
    let (code, text) = curl(&server, dir.path(), "http://HOST/metrics", user).await;
    assert!(code != 0 && !text.contains("vfprobe"), "{code} {text}");
    server.stop().await;
}

#[tokio::test]
async fn clients_show_a_certificate_where_it_is_asked_for() {
    if !there("clients_show_a_certificate_where_it_is_asked_for") {
        return;
    }
    let dir = folder();
    let none = "--cacert ca.pem";
    let own = format!("{none} --cert client.pem --key client-key.pem");
    let foreign = format!("{none} --cert cert.pem --key key.pem");
    for (kind, without, with_foreign) in
        [("RequireAndVerifyClientCert", false, false), ("VerifyClientCertIfGiven", true, false)]
    {
        let text = format!("{TLS}  client_auth_type: {kind}\n  client_ca_file: clients.pem\n");
        let server = Server::guarded(MadeUp::usual(), GENEROUS, read(dir.path(), &text)).await;
        for (options, answered) in [(own.as_str(), true), (none, without), (&foreign, with_foreign)] {
            let (code, text) = curl(&server, dir.path(), "https://HOST/metrics", options).await;
            assert_eq!(
                (code == 0, text.contains("vfprobe_up 1\n")),
                (answered, answered),
                "{kind} {options}: {code} {text}"
            );
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn versions_are_those_asked_for() {
    if !there("versions_are_those_asked_for") {
        return;
    }
    let dir = folder();
    for (key, old, new) in [("min_version: TLS13", false, true), ("max_version: TLS12", true, false)] {
        let server =
            Server::guarded(MadeUp::usual(), GENEROUS, read(dir.path(), &format!("{TLS}  {key}\n"))).await;
        for (options, answered) in [("--tls-max 1.2", old), ("--tlsv1.3", new)] {
            let options = format!("--cacert ca.pem {options}");
            let (code, text) = curl(&server, dir.path(), "https://HOST/metrics", &options).await;
            assert_eq!(code == 0, answered, "{key} {options}: {text}");
        }
        server.stop().await;
    }
}

#[test]
fn a_change_of_any_file_is_seen() {
    let dir = folder();
    let text = format!("{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: clients.pem\n");
    for file in ["web.yml", "cert.pem", "key.pem", "clients.pem"] {
        let web = read(dir.path(), &text);
        assert!(!web.is_outdated());
        // Put in place by a rename, as tools that renew certificates do.
        let path = dir.path().join(file);
        fs::copy(&path, dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(web.is_outdated(), "{file}");
    }
    let web = read(dir.path(), &text);
    fs::remove_file(dir.path().join("key.pem")).unwrap();
    assert!(web.is_outdated());
}

#[test]
fn files_that_do_not_fit_are_named() {
    let dir = folder();
    fs::write(dir.path().join("empty.pem"), "").unwrap();
    for (text, part) in [
        ("tls_server_config: {cert_file: no.pem, key_file: key.pem}", "cannot read the certificate "),
        (
            "tls_server_config: {cert_file: empty.pem, key_file: key.pem}",
            "empty.pem: holds no certificate in PEM form",
        ),
        (
            "tls_server_config: {cert_file: cert.pem, key_file: cert.pem}",
            "cert.pem: holds no private key in PEM form",
        ),
        (
            "tls_server_config: {cert_file: cert.pem, key_file: client-key.pem}",
            "cert.pem: cannot be used with the key ",
        ),
        ("tls_server_config: {}", "web.yml: line 1: tls_server_config: cert_file is missing"),
    ] {
        let path = dir.path().join("web.yml");
        fs::write(&path, text).unwrap();
        let error = Web::read(&path).err().unwrap().to_string();
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = Web::read(&dir.path().join("none.yml")).err().unwrap().to_string();
    assert!(error.starts_with("cannot read the web config "), "{error}");
}

/// A handshake that does not end costs a place for a while, and nobody else's answer.
#[tokio::test]
async fn an_unfinished_handshake_is_cut() {
    let dir = folder();
    let limits = Limits { head: Duration::from_millis(50), total: HANG, ..GENEROUS };
    let server = Server::guarded(MadeUp::usual(), limits, read(dir.path(), TLS)).await;
    let mut stream = server.connect().await;
    // The first bytes of a handshake: a record of 512 bytes follows, of which none comes.
    stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    assert_eq!(read_to_close(&mut stream).await, "");
    server.stop().await;
}
