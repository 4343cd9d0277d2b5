//! Parsing of connection strings, default settings, and detection of remote hosts.

use std::net::IpAddr;

use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use crate::{
    error::{Error, ErrorKind},
    postgres::each_host::count,
};

/// Settings for options that the string omits. [`PgPoolBuilder`](super::PgPoolBuilder) documents
/// the reasons.
const DEFAULTS: [(&str, &str); 6] = [
    ("connect_timeout", "1"),
    ("tcp_user_timeout", "2"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "2"),
    ("keepalives_retries", "3"),
    ("application_name", "tower-user-session"),
];
/// An additional default, if there are several hosts.
const DEFAULT_FOR_SEVERAL_HOSTS: (&str, &str) = ("target_session_attrs", "read-write");

pub(crate) struct ConnectionString {
    pub(crate) config: Config,
    /// `None` if the string has no `sslmode`. [`Config`] cannot distinguish an absent `sslmode`
    /// from `prefer`.
    pub(crate) ssl_mode: Option<SslMode>,
}

impl ConnectionString {
    pub(crate) fn parse(string: &str) -> Result<Self, Error> {
        let read = |string: &str| string.parse::<Config>();
        // A secret that is read from a file often ends with a newline.
        let string = string.trim();
        // `verify-full` and `verify-ca` add nothing, because the certificate and the name are
        // always verified.
        let (string, plain) = read(string)
            .map(|config| (string.to_owned(), config))
            .or_else(|_| {
                let string = string
                    .replace("sslmode=verify-full", "sslmode=require")
                    .replace("sslmode=verify-ca", "sslmode=require");
                let config = read(&string).map_err(|_| parse_error(&string))?;
                Ok((string, config))
            })?;
        check(&string, &plain)?;
        let with_defaults = |settings: &[(&str, &str)]| {
            read(&prepend(&string, settings)).map_err(|_| parse_error(&string))
        };
        let mut settings = DEFAULTS.to_vec();
        if count(&plain) > 1 {
            settings.push(DEFAULT_FOR_SEVERAL_HOSTS);
        }
        let config = with_defaults(&settings)?;
        let with_disable = with_defaults(&[("sslmode", "disable")])?;
        let is_explicit = with_disable.get_ssl_mode() == config.get_ssl_mode();
        Ok(Self {
            ssl_mode: is_explicit.then(|| config.get_ssl_mode()),
            config,
        })
    }

    /// Returns whether any host may be remote.
    pub(crate) fn has_remote_host(&self) -> bool {
        let local = |host: &Host| match host {
            Host::Tcp(name) => {
                name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback)
            }
            #[cfg(unix)]
            Host::Unix(_) => true,
        };
        let (hosts, addresses) = (self.config.get_hosts(), self.config.get_hostaddrs());
        !hosts.iter().all(local) || !addresses.iter().copied().all(is_loopback)
    }

    /// Returns whether every host is given in `host` as a DNS name or an IP address. TLS verifies
    /// the certificate against that value. A Unix socket, or a `hostaddr` without `host`, has no
    /// such value.
    pub(crate) fn has_names(&self) -> bool {
        let hosts = self.config.get_hosts();
        !hosts.is_empty() && hosts.iter().all(|host| matches!(host, Host::Tcp(_)))
    }

    pub(crate) fn hosts(&self) -> usize {
        count(&self.config)
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Returns the string with these settings inserted before the string's own settings. The last value
/// of a setting takes effect.
fn prepend(string: &str, settings: &[(&str, &str)]) -> String {
    let join = |separator| {
        let settings = settings
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        settings.collect::<Vec<_>>().join(separator)
    };
    if !is_url(string) {
        return format!("{} {string}", join(" "));
    }
    // As in the driver, the options begin at the first `?` after the credentials.
    let start = string.find('@').unwrap_or_default();
    match string[start..].split_once('?') {
        Some((head, options)) => {
            format!("{}{head}?{}&{options}", &string[..start], join("&"))
        }
        None => format!("{string}?{}", join("&")),
    }
}

fn is_url(string: &str) -> bool {
    ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| string.starts_with(scheme))
}

/// Rejects strings that the driver would misread, or would reject only when it connects.
fn check(string: &str, config: &Config) -> Result<(), Error> {
    let (hosts, addresses) = (config.get_hosts().len(), config.get_hostaddrs().len());
    if hosts.max(addresses) == 0 {
        return Err(config_error("the connection string names no host"));
    }
    if hosts != addresses && hosts.min(addresses) > 0 {
        return Err(config_error(
            "the connection string must list as many `hostaddr` values as `host` values",
        ));
    }
    if config.get_ports().len() > 1 && config.get_ports().len() != hosts.max(addresses) {
        return Err(config_error(
            "the connection string must list one port, or as many ports as hosts",
        ));
    }
    // The driver would use a part of the password as a host name, and print it.
    let credentials = string
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'));
    let is_ambiguous = credentials.is_some_and(|(before, after)| {
        let host = after.split('?').next().unwrap_or_default();
        before.contains(['/', '?']) || host.contains('@')
    });
    if is_url(string) && is_ambiguous {
        return Err(config_error(
            "a user, password or option in the connection URL contains `@`, `/` or `?`: \
             percent-encode it",
        ));
    }
    Ok(())
}

/// Omits the driver's own error, which may quote a part of a password.
fn parse_error(string: &str) -> Error {
    if let Some(option) = unknown_option(string) {
        return Error::new(
            ErrorKind::Configuration,
            format!("unknown option `{option}`"),
        )
        .with_message("the connection URL has an unknown option: see the source of this error");
    }
    config_error(
        if string.contains("sslrootcert=") || string.contains("sslcert=") {
            "`sslrootcert`, `sslcert` and `sslkey` are not supported in the connection string: \
             call root_certificates and client_certificate"
        } else if string.contains("://") && !is_url(string) {
            "the connection URL must begin with `postgresql://` or `postgres://`"
        } else {
            "the connection string cannot be parsed"
        },
    )
}

/// The options that the driver supports.
const OPTIONS: [&str; 19] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslmode",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// Returns the first option of a URL that the driver does not support. Returns `None` if the name
/// may be a part of a password that is not percent-encoded: if the options contain an `@` or a
/// password, or if the name is not spelled like an option.
fn unknown_option(string: &str) -> Option<&str> {
    let (_, options) = string.split_once('?').filter(|_| is_url(string))?;
    if options.contains('@') || options.contains("password") {
        return None;
    }
    let names = options.split('&').map(|option| {
        let (name, _) = option.split_once('=').unwrap_or((option, ""));
        name
    });
    let is_name = |name: &str| {
        !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
    };
    let certificates = ["sslrootcert", "sslcert", "sslkey"];
    names
        .filter(|name| is_name(name) && !certificates.contains(name))
        .find(|name| !OPTIONS.contains(name))
}

pub(crate) fn config_error(message: &'static str) -> Error {
    Error::from_kind(ErrorKind::Configuration).with_message(message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_postgres::config::TargetSessionAttrs;

    use super::*;

    fn parse(string: &str) -> Result<ConnectionString, Error> {
        ConnectionString::parse(string)
    }

    /// L03: every host counts, in every notation.
    #[test]
    fn only_hosts_that_are_certainly_local_count_as_local() {
        for local in [
            "postgres://localhost/app",
            "postgres://LocalHost/app",
            "postgres://u:p@127.0.0.1:5433/app",
            "postgres://127.9.8.7,localhost/app",
            "postgres://[::1]/app",
            "postgres://[::ffff:127.0.0.1]/app",
            "postgres:///app?host=/run/postgresql",
            "postgres://%2Frun%2Fpostgresql/app",
            "host=/run/postgresql,localhost",
            "hostaddr=127.0.0.1,::1",
            "host=localhost hostaddr=127.0.0.1",
        ] {
            assert!(!parse(local).unwrap().has_remote_host(), "{local}");
        }
        for remote in [
            "postgres://db.example/app",
            "postgres://10.0.0.1/app",
            "postgres://0.0.0.0/app",
            "postgres://128.0.0.1/app",
            "postgres://localhost.example/app",
            "postgres://127.0.0.1.example/app",
            "postgres://[fe80::1]/app",
            "postgres://[::ffff:10.0.0.1]/app",
            "postgres://localhost,db.example/app",
            "postgres://localhost/app?host=db.example",
            "postgres://localhost/app?hostaddr=10.0.0.1",
            "host=db.example hostaddr=127.0.0.1",
            "host=localhost,localhost hostaddr=127.0.0.1,10.0.0.1",
            "host=/run/postgresql,db.example",
            "hostaddr=10.0.0.1",
        ] {
            assert!(parse(remote).unwrap().has_remote_host(), "{remote}");
        }
    }

    #[test]
    fn options_in_the_string_take_precedence_over_defaults() {
        for without_options in [
            "postgres://u:p@db.example",
            "postgres://db.example/app?user=u",
            "postgres://u:p%3F@db.example/app?",
            "host=db.example password='a sslmode=verify-full b'",
        ] {
            let parsed = parse(without_options).unwrap();
            let config = parsed.config;
            assert_eq!(parsed.ssl_mode, None, "{without_options}");
            assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(1)));
            assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_secs(2)));
            assert_eq!(config.get_keepalives_idle(), Duration::from_secs(10));
            assert_eq!(
                config.get_keepalives_interval(),
                Some(Duration::from_secs(2))
            );
            assert_eq!(config.get_keepalives_retries(), Some(3));
            assert_eq!(config.get_application_name(), Some("tower-user-session"));
            assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::Any);
            assert_eq!(config.get_hosts(), [Host::Tcp("db.example".to_owned())]);
        }
        for with_options in [
            "postgres://a,b/app?sslmode=prefer&connect_timeout=7&keepalives_idle=7200&target_session_attrs=any&application_name=x",
            "host=a,b sslmode=prefer connect_timeout=7 keepalives_idle=7200 target_session_attrs=any application_name=x",
        ] {
            let parsed = parse(with_options).unwrap();
            let config = parsed.config;
            assert_eq!(parsed.ssl_mode, Some(SslMode::Prefer));
            assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
            assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7200));
            assert_eq!(config.get_application_name(), Some("x"));
            assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::Any);
        }
        let several = parse("postgres://a,b/app").unwrap().config;
        assert_eq!(
            several.get_target_session_attrs(),
            TargetSessionAttrs::ReadWrite
        );
        for verified in [
            "postgres://a/?sslmode=verify-full",
            "host=a sslmode=verify-ca",
        ] {
            assert_eq!(parse(verified).unwrap().ssl_mode, Some(SslMode::Require));
        }
        let quoted = parse("host=a password='a sslmode=verify-full b'")
            .unwrap()
            .config;
        assert_eq!(quoted.get_password(), Some(&b"a sslmode=verify-full b"[..]));
    }

    /// The error names an unsupported option. White space around the string is ignored.
    #[test]
    fn unknown_option_of_a_url_is_named() {
        for (url, named) in [
            (
                "postgres://u:secret@a/app?pool_max_conns=4",
                "pool_max_conns",
            ),
            (
                "postgres://u:secret@a/app?sslmode=require&schema=x",
                "schema",
            ),
            ("postgres://a?pgbouncer=true", "pgbouncer"),
        ] {
            let error = parse(url).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(source, format!("unknown option `{named}`"));
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
        for name in OPTIONS {
            assert_eq!(unknown_option(&format!("postgres://a?{name}=1")), None);
        }
        for hidden in [
            "postgres://u:x?hunter=1@a/app",
            "postgres://a?password=x&hunter=1",
            "postgres://a?hunter2=1",
            "host=a password=x hunter=1",
        ] {
            assert_eq!(unknown_option(hidden), None, "{hidden}");
        }
        for spaced in [
            " postgres://a/app\n",
            "\tpostgres://a/app \r\n",
            " host=a dbname=app \n",
        ] {
            let config = parse(spaced).unwrap().config;
            assert_eq!(config.get_dbname(), Some("app"), "{spaced:?}");
        }
    }

    /// F19: the error contains no part of the string, even if the driver would quote a part of a
    /// password or use it as a host.
    #[test]
    fn error_for_an_ambiguous_string_quotes_no_part_of_it() {
        for string in [
            "postgres://u:hunter2@hunter2@db.example/app",
            "postgres://u:x@hunter2/hunter2@db.example/app",
            "postgres://u:x@hunter2?hunter2=hunter2@db.example/app",
            "postgres://db.example/app?user=u&password=hunter2@hunter2",
            "postgres://u:hunter2/hunter2@db.example/app",
            "host=db.example password=x hunter2=hunter2",
            "host=db.example password='hunter2",
            "host=db.example password=hunter2 sslrootcert=/ca.pem",
            "postgres://u:hunter2@/app",
            "postgres://u:hunter2@a,b/app?port=1,2,3",
            "host=a,b hostaddr=127.0.0.1 password=hunter2",
            "hunter2",
        ] {
            let error = parse(string).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{string}");
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
