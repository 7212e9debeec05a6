//! A web config as text: YAML, as Prometheus' exporter-toolkit has it. What is known but
//! not offered is refused with the reason, what is not known is refused: nothing that guards is passed over.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Highest cost of a password's hash: each step doubles the time it takes; 15 are about two seconds.
const MOST_COST: u32 = 15;
/// Header lines that may be set, as in the exporter-toolkit.
const HEADERS: [&str; 5] = [
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
    "Content-Security-Policy",
];

/// A text that is no web config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct NotAWebConfig {
    /// Where, counted from 1.
    line: u64,
    /// What is wrong.
    what: String,
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) tls: Option<Tls>,
    /// Hashes of passwords by user.
    pub(super) users: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
}

/// TLS, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) clients: Clients,
    pub(super) oldest: Version,
    pub(super) newest: Version,
}

/// Which certificates clients need; verified by those in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Clients {
    None,
    IfGiven(PathBuf),
    Required(PathBuf),
}

/// Versions of TLS that are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

impl Tls {
    /// With paths that start at `folder`.
    pub(super) fn below(self, folder: &Path) -> Self {
        let Self { cert, key, clients, oldest, newest } = self;
        let clients = match clients {
            Clients::None => Clients::None,
            Clients::IfGiven(ca) => Clients::IfGiven(folder.join(ca)),
            Clients::Required(ca) => Clients::Required(folder.join(ca)),
        };
        Self { cert: folder.join(cert), key: folder.join(key), clients, oldest, newest }
    }

    /// All files it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let ca = match &self.clients {
            Clients::None => None,
            Clients::IfGiven(ca) | Clients::Required(ca) => Some(ca),
        };
        [&self.cert, &self.key].into_iter().chain(ca).map(PathBuf::as_path)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Text {
    tls_server_config: Option<Spanned<TlsText>>,
    http_server_config: HttpText,
    basic_auth_users: BTreeMap<String, Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpText {
    /// Whether HTTP/2 may be spoken; never is it the only way.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: BTreeMap<String, Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TlsText {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
    client_auth_type: Option<Spanned<String>>,
    min_version: Option<Spanned<String>>,
    max_version: Option<Spanned<String>>,
    cert: Option<Spanned<IgnoredAny>>,
    key: Option<Spanned<IgnoredAny>>,
    client_ca: Option<Spanned<IgnoredAny>>,
    client_allowed_sans: Option<Spanned<IgnoredAny>>,
    cipher_suites: Option<Spanned<IgnoredAny>>,
    curve_preferences: Option<Spanned<IgnoredAny>>,
    prefer_server_cipher_suites: Option<Spanned<IgnoredAny>>,
}

fn at<T>(place: &Spanned<T>, what: impl Into<String>) -> NotAWebConfig {
    NotAWebConfig { line: place.referenced.line(), what: what.into() }
}

/// Reads a web config.
pub(super) fn parse(text: &str) -> Result<File, NotAWebConfig> {
    // A file of comments alone asks for nothing.
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(File::default());
    }
    let Text { tls_server_config, http_server_config, basic_auth_users } = serde_saphyr::from_str(text)
        .map_err(|error| {
            let error = error.without_snippet();
            let line = error.location().map_or(1, |location| location.line());
            // The place is said already; the text has it once more.
            let what = error.to_string().lines().next().unwrap_or_default().to_owned();
            let what = what.split(" at line ").next().unwrap_or_default().to_owned();
            NotAWebConfig { line, what }
        })?;
    let mut users = BTreeMap::new();
    for (user, hash) in basic_auth_users {
        check_hash(&hash.value).map_err(|what| at(&hash, format!("basic_auth_users: {user}: {what}")))?;
        users.insert(user, hash.value);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in http_server_config.headers {
        let known = HEADERS.iter().find(|known| known.eq_ignore_ascii_case(&name));
        let known = known
            .ok_or_else(|| at(&value, format!("headers: {name:?} is none of {}", HEADERS.join(", "))))?;
        let line = HeaderValue::from_str(&value.value);
        let line =
            line.map_err(|_| at(&value, format!("headers: {known}: not the text of a header line")))?;
        let name = HeaderName::from_bytes(known.as_bytes());
        headers.insert(name.expect("the names of HEADERS are names of header lines"), line);
    }
    Ok(File { tls: tls_server_config.map(tls).transpose()?, users, headers })
}

/// Prometheus' exporters take hashes of these kinds.
fn check_hash(hash: &str) -> Result<(), String> {
    let made = "make one with `htpasswd -nBC 10 USER`";
    let parts: bcrypt::HashParts =
        hash.parse().map_err(|_| format!("not a bcrypt hash ($2y$...); {made}"))?;
    match parts.get_cost() {
        cost if cost > MOST_COST => Err(format!("cost {cost} would take minutes; {made}")),
        _ => Ok(()),
    }
}

fn tls(text: Spanned<TlsText>) -> Result<Tls, NotAWebConfig> {
    let place = Spanned::new((), text.referenced, text.defined);
    let TlsText {
        cert_file,
        key_file,
        client_ca_file,
        client_auth_type,
        min_version,
        max_version,
        cert,
        key,
        client_ca,
        client_allowed_sans,
        cipher_suites,
        curve_preferences,
        prefer_server_cipher_suites,
    } = text.value;
    for (name, given, instead) in [
        ("cert", cert, "name a file with cert_file"),
        ("key", key, "name a file with key_file"),
        ("client_ca", client_ca, "name a file with client_ca_file"),
        ("client_allowed_sans", client_allowed_sans, "give clients certificates of a CA of their own"),
        ("cipher_suites", cipher_suites, "all that are offered are safe; leave it out"),
        ("curve_preferences", curve_preferences, "all that are offered are safe; leave it out"),
        (
            "prefer_server_cipher_suites",
            prefer_server_cipher_suites,
            "the server's order holds; leave it out",
        ),
    ] {
        if let Some(given) = given {
            return Err(at(&given, format!("{name}: not offered here; {instead}")));
        }
    }
    let missing = |key: &str| at(&place, format!("tls_server_config: {key} is missing"));
    let cert = cert_file.ok_or_else(|| missing("cert_file"))?;
    let key = key_file.ok_or_else(|| missing("key_file"))?;
    let clients = match (client_auth_type.as_ref().map(|t| t.value.as_str()), client_ca_file) {
        (None | Some("NoClientCert"), None) => Clients::None,
        (None | Some("NoClientCert"), Some(_)) => {
            return Err(at(
                &place,
                "client_ca_file: verifies nobody unless client_auth_type asks for certificates",
            ));
        }
        (Some("VerifyClientCertIfGiven"), Some(ca)) => Clients::IfGiven(ca),
        (Some("RequireAndVerifyClientCert"), Some(ca)) => Clients::Required(ca),
        (Some("VerifyClientCertIfGiven" | "RequireAndVerifyClientCert"), None) => {
            return Err(missing("client_ca_file"));
        }
        (Some(other), _) => {
            let place =
                client_auth_type.as_ref().map_or(place, |t| Spanned::new((), t.referenced, t.defined));
            let what = format!(
                "client_auth_type: {other:?} is none of NoClientCert, VerifyClientCertIfGiven, \
                 RequireAndVerifyClientCert (certificates that nobody verifies are not offered)"
            );
            return Err(at(&place, what));
        }
    };
    let oldest = min_version.as_ref().map_or(Ok(Version::Tls12), |text| version("min_version", text))?;
    let newest = max_version.as_ref().map_or(Ok(Version::Tls13), |text| version("max_version", text))?;
    if oldest > newest {
        return Err(at(&place, "min_version: newer than max_version"));
    }
    Ok(Tls { cert, key, clients, oldest, newest })
}

fn version(key: &str, text: &Spanned<String>) -> Result<Version, NotAWebConfig> {
    match text.value.as_str() {
        "TLS12" => Ok(Version::Tls12),
        "TLS13" => Ok(Version::Tls13),
        other => Err(at(text, format!("{key}: {other:?} is none of TLS12, TLS13"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

    #[test]
    fn a_full_file() {
        let text = format!(
            "tls_server_config:\n  cert_file: c.pem\n  key_file: /k.pem\n  client_auth_type: RequireAndVerifyClientCert\n  \
             client_ca_file: ca.pem\n  min_version: TLS13\nhttp_server_config:\n  http2: true\n  headers:\n    \
             x-frame-options: deny\nbasic_auth_users:\n  prom: {HASH}\n"
        );
        let File { tls, users, headers } = parse(&text).unwrap();
        let tls = tls.unwrap().below(Path::new("/etc"));
        assert_eq!(tls.clients, Clients::Required("/etc/ca.pem".into()));
        assert_eq!((tls.oldest, tls.newest), (Version::Tls13, Version::Tls13));
        let files: Vec<_> = tls.files().map(|file| file.to_str().unwrap()).collect();
        assert_eq!(files, ["/etc/c.pem", "/k.pem", "/etc/ca.pem"]);
        assert_eq!(users, [("prom".to_owned(), HASH.to_owned())].into());
        assert_eq!(headers["X-Frame-Options"], "deny");
    }

    #[test]
    fn a_file_that_asks_for_nothing() {
        for text in ["", "# nothing\n\n", "basic_auth_users: {}\n"] {
            let File { tls, users, headers } = parse(text).unwrap();
            assert!(tls.is_none() && users.is_empty() && headers.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn refusals_name_the_line() {
        let tls = "tls_server_config:\n  cert_file: c\n  key_file: k\n";
        for (text, line, part) in [
            ("basic_auth_user:\n  a: b\n", 1, "unknown field `basic_auth_user`"),
            ("tls_server_config:\n  cert_file: c\n", 2, "tls_server_config: key_file is missing"),
            ("basic_auth_users:\n  a: b\n", 2, "basic_auth_users: a: not a bcrypt hash"),
            (
                "basic_auth_users:\n  a: $2y$31$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi\n",
                2,
                "cost 31 would take minutes",
            ),
            ("http_server_config:\n  headers:\n    Server: x\n", 3, "headers: \"Server\" is none of Strict-"),
            (
                &format!("{tls}  client_auth_type: RequestClientCert\n"),
                4,
                "that nobody verifies are not offered",
            ),
            (&format!("{tls}  client_auth_type: VerifyClientCertIfGiven\n"), 2, "client_ca_file is missing"),
            (&format!("{tls}  client_ca_file: x\n"), 2, "verifies nobody"),
            (&format!("{tls}  min_version: TLS10\n"), 4, "min_version: \"TLS10\" is none of TLS12, TLS13"),
            (&format!("{tls}  min_version: TLS13\n  max_version: TLS12\n"), 2, "newer than max_version"),
            (&format!("{tls}  client_allowed_sans: [a]\n"), 4, "client_allowed_sans: not offered here"),
            (&format!("{tls}  cipher_suites: [a]\n"), 4, "cipher_suites: not offered here"),
            ("basic_auth_users:\n  a: \"b\n", 2, "unclosed quote"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.what.contains(part), "{text:?}: {error}");
            assert!(!error.what.contains('\n'), "{text:?}: {error}");
            assert_eq!(error.line, line, "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_web_config_or_an_error(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
