//! Redirects, and tickets.

use keyferry_model::redirect::{Following, RedirectWhen};

use super::*;

fn gateway_with(text: &str) -> Result<Option<keyferry_model::redirect::Redirect>, String> {
    let files = Files::new();
    let file = files.write("gateway.toml", format!("{GATEWAY}\n{text}"), 0o600);
    gateway(&file, Variables::new()).map(|c| c.config.ike2.redirect).map_err(|p| p.to_string())
}

fn member_with(text: &str) -> Result<MemberConfig, String> {
    let files = Files::new();
    let file = files.write("member.toml", MEMBER.replace("[member]", &format!("[member]\n{text}")), 0o600);
    member(&file, Variables::new()).map(|c| c.config).map_err(|p| p.to_string())
}

#[test]
fn a_gateway_sends_members_where_it_is_told() {
    assert_eq!(gateway_with(""), Ok(None));
    let read = gateway_with("[gateway.redirect]\nto = \"192.0.2.2\"").unwrap().unwrap();
    assert_eq!((read.to.len(), read.when, read.patience), (1, RedirectWhen::Command, Duration::from_secs(60)));
    let text = "[gateway.redirect]\nto = [\"192.0.2.2\", \"fqdn:gw2.example\"]\nwhen = \"full\"\nabove = 7\n\
                members = [\"10.0.0.1\"]\npatience = \"5m\"";
    let read = gateway_with(text).unwrap().unwrap();
    assert_eq!((read.to.len(), read.when, read.above), (2, RedirectWhen::Full, 7));
    assert_eq!((read.members, read.patience), (vec!["10.0.0.1".parse().unwrap()], Duration::from_secs(300)));
    for (text, problem) in [
        ("[gateway.redirect]", "is missing"),
        ("[gateway.redirect]\nto = \"239.1.1.1\"", "no address that can be reached"),
        ("[gateway.redirect]\nto = \"gw2.example\"", "fqdn:NAME"),
        ("[gateway.redirect]\nto = \"192.0.2.2\"\nabove = 7", "when the gateway is full"),
        ("[gateway.redirect]\nto = \"192.0.2.2\"\nwhen = \"never\"", "when"),
    ] {
        assert!(gateway_with(text).unwrap_err().contains(problem), "{text}");
    }
}

#[test]
fn a_member_follows_to_key_servers_that_it_knows() {
    assert_eq!(member_with("").unwrap().ike2.follows, None);
    let spare =
        "follow_redirects = true\nredirect_gateway = \"192.0.2.9\"\nredirect_gateway_identity = \"fqdn:gw9.example\"";
    let read = member_with(spare).unwrap();
    assert_eq!(read.ike2.follows, Some(Following::default()));
    assert_eq!(read.gateways.len(), 1);
    assert_eq!(read.reserve[0].address, "192.0.2.9:848".parse().unwrap());
    assert_eq!(read.reserve[0].identity, Some(Identity::Fqdn("gw9.example".into())));
    let bounds = format!("{spare}\nmax_redirects = 2\nredirect_period = \"1m\"");
    assert_eq!(
        member_with(&bounds).unwrap().ike2.follows,
        Some(Following { most: 2, period: Duration::from_secs(60) })
    );
    for (text, problem) in [
        ("follow_redirects = true", "no other key server"),
        ("redirect_gateway = \"192.0.2.9\"", "nobody is sent there"),
        ("follow_redirects = true\nredirect_gateway = \"192.0.2.1\"", "twice"),
        ("follow_redirects = true\nredirect_gateway = \"2001:db8::1\"", "mixes IPv4 and IPv6"),
        ("follow_redirects = true\nredirect_gateway = \"192.0.2.9\"\nprotocol = \"gdoi\"", "GDOI has none"),
    ] {
        let said = member_with(text).unwrap_err();
        assert!(said.contains(problem), "{text}: {said}");
    }
}

#[test]
fn tickets_are_given_and_asked_for_where_that_is_said() {
    let lifetime = |text: &str| {
        let files = Files::new();
        let text = GATEWAY.replace("store =", &format!("{text}\nstore ="));
        let file = files.write("gateway.toml", text, 0o600);
        gateway(&file, Variables::new()).map(|c| c.config.ike2.ticket_lifetime).map_err(|p| p.to_string())
    };
    assert_eq!(lifetime(""), Ok(None));
    assert_eq!(lifetime("ticket_lifetime = \"0s\""), Ok(None));
    assert_eq!(lifetime("ticket_lifetime = \"1h\""), Ok(Some(Duration::from_secs(3600))));
    assert!(lifetime("ticket_lifetime = \"10s\"").unwrap_err().contains("too short"));
    assert!(lifetime("ticket_lifetime = \"2d\"").is_err());
    assert!(!member_with("").unwrap().ike2.resume);
    assert!(member_with("resume = true").unwrap().ike2.resume);
}
