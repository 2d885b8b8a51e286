//! TCP.

use keyferry_gateway::ConnectionLimits;
use keyferry_model::settings::Transport;

use super::*;

#[test]
fn tcp_is_off_unless_it_is_configured() {
    let config = gateway_of(GATEWAY).unwrap().config;
    assert!(config.listen_tcp.is_empty());
    assert_eq!(config.connections, ConnectionLimits::default());
    assert_eq!(member_of(MEMBER).unwrap().config.gikev2.transport, Transport::Udp);
    let keys = "[gateway]\nlisten_tcp = [\"192.0.2.1\", \"[2001:db8::1]:848\"]\ntcp_connections = 100\n\
                tcp_connections_per_address = 3\n";
    let config = gateway_of(&GATEWAY.replace("[gateway]\n", keys)).unwrap().config;
    let expected: Vec<std::net::SocketAddr> =
        ["192.0.2.1:4500", "[2001:db8::1]:848"].iter().map(|a| a.parse().unwrap()).collect();
    assert_eq!(config.listen_tcp, expected);
    assert_eq!(config.connections, ConnectionLimits { total: 100, per_address: 3 });
    for (keys, transport) in [
        ("transport = \"tcp\"", Transport::Tcp(4500)),
        ("transport = \"auto\"\ntcp_port = 848", Transport::UdpThenTcp(848)),
    ] {
        assert_eq!(member_of(&format!("{MEMBER}{keys}\n")).unwrap().config.gikev2.transport, transport);
    }
    let useless = member_of(&format!("{MEMBER}tcp_port = 848\n")).unwrap_err().to_string();
    assert!(useless.contains("is of no use over UDP"), "{useless}");
    let twice = GATEWAY.replace("[gateway]\n", "[gateway]\nlisten_tcp = [\"192.0.2.1\", \"192.0.2.1:4500\"]\n");
    assert!(gateway_of(&twice).unwrap_err().to_string().contains("stands there twice"));
}
