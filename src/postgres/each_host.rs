//! The hosts of a configuration.

use tokio_postgres::{Config, config::Host};

/// Returns the number of hosts of the configuration.
pub(super) fn count(config: &Config) -> usize {
    config.get_hosts().len().max(config.get_hostaddrs().len())
}

/// Returns one configuration per host. Returns none if the driver would reject the configuration,
/// because the numbers of hosts, addresses and ports differ.
///
/// The driver limits the time until a host accepts the connection, but not the time until it
/// responds. The kernel of a frozen server still accepts connections.
pub(super) fn each_host(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (
        config.get_hosts(),
        config.get_hostaddrs(),
        config.get_ports(),
    );
    let count = count(config);
    let fits = |length, least| length <= least || length == count;
    if !fits(hosts.len(), 0) || !fits(addresses.len(), 0) || !fits(ports.len(), 1) {
        return Vec::new();
    }
    let without_hosts = without_hosts(config);
    let alone = |place: usize| {
        let mut one = without_hosts.clone();
        match hosts.get(place) {
            Some(Host::Tcp(name)) => {
                one.host(name);
            }
            #[cfg(unix)]
            Some(Host::Unix(folder)) => {
                one.host_path(folder);
            }
            None => {}
        }
        if let Some(address) = addresses.get(place) {
            one.hostaddr(*address);
        }
        // A single port applies to all hosts.
        if let Some(port) = ports.get(place).or(ports.first()) {
            one.port(*port);
        }
        one
    };
    (0..count).map(alone).collect()
}

/// Copies every setting except the hosts, because the driver cannot remove a host.
fn without_hosts(config: &Config) -> Config {
    let mut copy = Config::new();
    copy.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    if let Some(user) = config.get_user() {
        copy.user(user);
    }
    if let Some(password) = config.get_password() {
        copy.password(password);
    }
    if let Some(database) = config.get_dbname() {
        copy.dbname(database);
    }
    if let Some(options) = config.get_options() {
        copy.options(options);
    }
    if let Some(name) = config.get_application_name() {
        copy.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        copy.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        copy.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        copy.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        copy.keepalives_retries(retries);
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N10: each host is tried with every other setting of the configuration.
    #[test]
    fn each_host_keeps_every_other_setting() {
        let settings = "user=u password=p dbname=d options='-c a=b' application_name=n sslmode=require \
             sslnegotiation=direct connect_timeout=3 tcp_user_timeout=4 keepalives=0 keepalives_idle=5 \
             keepalives_interval=6 keepalives_retries=7 target_session_attrs=read-write \
             channel_binding=require load_balance_hosts=random";
        for (hosts, alone) in [
            ("host=a", &["host=a"][..]),
            ("host=a,b", &["host=a", "host=b"]),
            ("host=a,b port=1", &["host=a port=1", "host=b port=1"]),
            (
                "host=a,/run port=1,2",
                &["host=a port=1", "host=/run port=2"],
            ),
            (
                "hostaddr=10.0.0.1,10.0.0.2 port=1,2",
                &["hostaddr=10.0.0.1 port=1", "hostaddr=10.0.0.2 port=2"],
            ),
            (
                "host=a,b hostaddr=10.0.0.1,10.0.0.2",
                &["host=a hostaddr=10.0.0.1", "host=b hostaddr=10.0.0.2"],
            ),
        ] {
            for settings in ["", settings] {
                let config = format!("{hosts} {settings}").parse().unwrap();
                let expected: Vec<Config> = alone
                    .iter()
                    .map(|host| format!("{host} {settings}").parse().unwrap())
                    .collect();
                assert_eq!(each_host(&config), expected, "{hosts} {settings}");
            }
        }
    }
}
