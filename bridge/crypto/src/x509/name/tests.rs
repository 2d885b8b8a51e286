use openssl::x509::X509NameBuilder;

use super::*;

fn name(text: &str) -> DistinguishedName {
    DistinguishedName::parse(text).unwrap()
}

/// RFC 4514, section 4: its examples that are names, as they are written.
#[test]
fn examples_of_rfc_4514() {
    for text in [
        "UID=jsmith,DC=example,DC=net",
        "OU=Sales+CN=J.  Smith,DC=example,DC=net",
        "CN=James \\\"Jim\\\" Smith\\, III,DC=example,DC=net",
        "CN=Before\\0dAfter,DC=example,DC=net",
        "1.3.6.1.4.1.1466.0=#04024869",
    ] {
        assert_eq!(name(text).to_string(), text);
        assert_eq!(DistinguishedName::from_der(name(text).der()).unwrap(), name(text));
    }
    for kind in ["0.39.1", "1.0.8802", "2.999.3", "2.999", "1.3.6.1.4.1.18446744073709551615"] {
        let name = name(&format!("{kind}=a"));
        assert_eq!(name.to_string(), format!("{kind}=a"));
        assert_eq!(DistinguishedName::from_der(name.der()).unwrap(), name);
    }
    assert_eq!(name("CN=Lu\\C4\\8Di\\C4\\87").to_string(), "CN=Lučić");
}

/// Whatever a CA has put into a certificate: records hold names as text, and must read back.
#[test]
fn every_name_reads_back() {
    for text in ["", "CN=", "O=Example+OU=,CN=", "CN=\\ ,O=\\ \\ ", "CN=\\#a", "CN=\\00\\0a\\7f", "2.5.4.3.1=#0500"] {
        let read = DistinguishedName::from_der(name(text).der()).unwrap();
        assert_eq!((&name(&read.to_string()), &read), (&read, &name(text)), "{text}");
    }
}

/// Against OpenSSL, which appends attributes in the order of the encoding.
#[test]
fn the_encoding_is_that_of_openssl() {
    let mut builder = X509NameBuilder::new().unwrap();
    for (kind, value) in [("C", "DE"), ("O", "Example"), ("CN", "gm1"), ("emailAddress", "a@example.net")] {
        builder.append_entry_by_text(kind, value).unwrap();
    }
    let theirs = builder.build().to_der().unwrap();
    assert_eq!(name("E=a@example.net, CN=gm1, O=Example, C=DE").der(), theirs);
    let read = DistinguishedName::from_der(&theirs).unwrap();
    assert_eq!(read.to_string(), "emailAddress=a@example.net,CN=gm1,O=Example,C=DE");
    assert!(!read.is_empty());
}

#[test]
fn names_that_mean_the_same_are_equal() {
    let plain = name("CN=Group Member 1,O=Example,C=DE");
    for same in [
        "cn=group member 1, o=EXAMPLE, c=de",
        "CN=\\ Group   Member 1\\ ,O=Example,C=DE",
        "2.5.4.3=Group Member 1,O=Example,C=DE",
    ] {
        assert_eq!(name(same), plain, "{same}");
        assert_eq!(name(same).cmp(&plain), std::cmp::Ordering::Equal);
    }
    for other in [
        "CN=Group Member 2,O=Example,C=DE",
        "C=DE,O=Example,CN=Group Member 1",
        "CN=Group Member 1+O=Example,C=DE",
        "CN=Group Member 1,O=Example",
        "",
    ] {
        assert_ne!(name(other), plain, "{other}");
    }
    assert_eq!(name("CN=a+O=b"), name("O=b+CN=a"));
    assert_eq!(name("CN=a+O=b").canonical().to_string(), name("o= B+cn=A").canonical().to_string());
    assert_eq!(plain.canonical(), plain);
    assert_eq!(plain.canonical().to_string(), "CN=group member 1,O=example,C=de");
    // "gm" as UTF8String, PrintableString, TeletexString, BMPString and UniversalString.
    let strings = ["0c02676d", "1302676d", "1402676d", "1e040067006d", "1c08000000670000006d"];
    let names: Vec<_> = strings.iter().map(|s| name(&format!("CN=#{s}"))).collect();
    for (one, hex) in names.iter().zip(strings) {
        assert_eq!((one, one.to_string().as_str()), (&name("CN=GM"), "CN=gm"));
        assert_eq!(one.der()[11..], hex::decode(hex).unwrap());
    }
    // An OCTET STRING is no text.
    assert_ne!(name("CN=#0402676d"), name("CN=gm"));
}

#[test]
fn what_is_no_name_is_refused() {
    for text in [
        "gm1",
        "CN=a,",
        "CN=a,,O=b",
        "=a",
        "CN=a\"",
        "CN=a\\",
        "CN=a\\q",
        "CN=\\ff",
        "Foo=a",
        "2=a",
        "3.1.1=a",
        "1.40.1=a",
        "2.18446744073709551615=a",
        "CN=#0",
        "CN=#0c05",
        "CN=#xy",
        "2.5.4.99999999999999999999=a",
    ] {
        assert!(DistinguishedName::parse(text).is_err(), "{text}");
    }
    let der = name("CN=gm1,O=Example").der().to_vec();
    for len in 0..der.len() {
        assert!(DistinguishedName::from_der(&der[..len]).is_err());
    }
    assert!(DistinguishedName::from_der(&[&der[..], &[0]].concat()).is_err());
    assert!(DistinguishedName::from_der(&hex::decode("30023100").unwrap()).is_err(), "an empty part");
    // Object identifiers without an end, with a zero in front, with none of its numbers, and with one of 70 bits.
    for oid in ["0603550483", "060455808303", "0600", "060b 55ffffffffffffffffff7f"] {
        let oid = hex::decode(oid.replace(' ', "")).unwrap();
        let attribute = der::encode(tag::SEQUENCE, &[&oid, b"\x0c\x01a"]);
        let octets = der::encode(tag::SEQUENCE, &[&der::encode(tag::SET, &[&attribute])]);
        assert!(DistinguishedName::from_der(&octets).is_err(), "{oid:02x?}");
    }
    assert!(DistinguishedName::from_der(&hex::decode("300b310930070603550403 0c00".replace(' ', "")).unwrap()).is_ok());
}

#[test]
fn text_from_outside_disturbs_no_terminal() {
    let name = name("CN=a\\1b[2J\\e2\\80\\ae\\0ab");
    assert_eq!(name.to_string(), "CN=a\\1b[2J\\e2\\80\\ae\\0ab");
}
