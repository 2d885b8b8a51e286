//! Published vectors, and what the safe face refuses. Where the processor lacks what the library is for, there is nothing to
//! test, and that is said.
#![allow(clippy::unwrap_used)]

use super::*;

fn manager() -> Option<Manager> {
    let manager = Manager::new();
    if manager.is_none() {
        println!("this processor lacks AVX-512, VAES or VPCLMULQDQ: not tested");
    }
    manager
}

fn block(hex: &str) -> [u8; 16] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

fn nonce(hex: &str) -> [u8; 16] {
    let mut nonce = [0; 16];
    hex::decode_to_slice(hex, &mut nonce[..12]).unwrap();
    nonce
}

/// Test case 4 of the specification of GCM (McGrew and Viega): plain text that is no whole block, and associated data.
#[test]
fn gcm_is_that_of_its_specification() {
    let Some(mut manager) = manager() else { return };
    let key = GcmKey::new(&mut manager, &block("feffe9928665731c6d6a8f9467308308")).unwrap();
    let associated = hex::decode("feedfacedeadbeeffeedfacedeadbeefabaddad2").unwrap();
    let plain = hex::decode(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    )
    .unwrap();
    let sealed = hex::decode(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
    )
    .unwrap();
    let tag = hex::decode("5bc94fbc3221a5db94fae95ae7121a47").unwrap();
    for icv_len in [8, 12, 16] {
        let mut esp = [&associated[..], &plain, &vec![0; icv_len]].concat();
        let iv = nonce("cafebabefacedbaddecaf888");
        let mut packet = [Packet::new(&mut esp, 20, icv_len, iv).unwrap()];
        assert!(manager.gcm(&key, Direction::Encrypt, 20, &mut packet));
        packet[0].put_tag();
        assert_eq!(esp, [&associated[..], &sealed, &tag[..icv_len]].concat());
        let mut packet = [Packet::new(&mut esp, 20, icv_len, iv).unwrap()];
        assert!(manager.gcm(&key, Direction::Decrypt, 20, &mut packet));
        assert_eq!(packet[0].tag(), &tag[..icv_len]);
        assert_eq!(packet[0].body(), plain);
    }
}

/// RFC 8439 section 2.8.2.
#[test]
fn chacha20_poly1305_is_that_of_rfc_8439() {
    let Some(mut manager) = manager() else { return };
    let key = ChaChaKey::new(&(0x80..0xa0).collect::<Vec<u8>>()).unwrap();
    let associated = hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap();
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    let sealed = hex::decode(concat!(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b",
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc",
        "3ff4def08e4b7a9de576d26586cec64b6116",
    ))
    .unwrap();
    let tag = hex::decode("1ae10b594f09e26a7e902ecbd0600691").unwrap();
    let iv = nonce("070000004041424344454647");
    // More than the library keeps of jobs.
    let mut many = vec![[&associated[..], plain, &[0; 16]].concat(); 3 * 64 + 5];
    let mut packets: Vec<Packet<'_>> = many.iter_mut().map(|esp| Packet::new(esp, 12, 16, iv).unwrap()).collect();
    assert!(manager.chacha20_poly1305(&key, Direction::Encrypt, 12, &mut packets));
    packets.iter_mut().for_each(Packet::put_tag);
    assert!(many.iter().all(|esp| *esp == [&associated[..], &sealed, &tag].concat()));
    let mut packets: Vec<Packet<'_>> = many.iter_mut().map(|esp| Packet::new(esp, 12, 16, iv).unwrap()).collect();
    assert!(manager.chacha20_poly1305(&key, Direction::Decrypt, 12, &mut packets));
    assert!(packets.iter_mut().all(|packet| packet.tag() == tag && packet.body() == plain));
}

/// RFC 3602 section 4, case 4: CBC of four blocks.
#[test]
fn cbc_is_that_of_rfc_3602() {
    let Some(mut manager) = manager() else { return };
    let key = AesKey::new(&mut manager, Mode::Cbc, &block("56e47a38c5598974bc46903dba290349")).unwrap();
    let iv = block("8ce82eefbea0da3c44699ed7db51b7d9");
    let plain: Vec<u8> = (0xa0..0xe0).collect();
    let sealed = hex::decode("c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55").unwrap();
    // More than a burst of the library's takes.
    let mut many = vec![plain.clone(); 3 * 64 + 5];
    let mut packets: Vec<Packet<'_>> = many.iter_mut().map(|p| Packet::new(p, 0, 0, iv).unwrap()).collect();
    assert!(manager.cipher(&key, Direction::Encrypt, &mut packets));
    assert!(many.iter().all(|packet| *packet == sealed));
    let mut packets: Vec<Packet<'_>> = many.iter_mut().map(|p| Packet::new(p, 0, 0, iv).unwrap()).collect();
    assert!(manager.cipher(&key, Direction::Decrypt, &mut packets));
    assert!(many.iter().all(|packet| *packet == plain));
}

/// RFC 4868 section 2.7.2: test cases AUTH256-2, AUTH384-2 and AUTH512-2; RFC 2202 section 3, case 3, in 12 octets.
#[test]
fn hmac_is_that_of_the_rfcs() {
    let Some(mut manager) = manager() else { return };
    let jefe = |times: usize| "4a656665".repeat(times);
    let data = hex::encode("what do ya want for nothing?");
    let cases = [
        (Hash::Sha1, "aa".repeat(20), "dd".repeat(50), "125d7342b9ac11cd91a39af4"),
        (Hash::Sha256, jefe(8), data.clone(), "167f928588c5cc2eef8e3093caa0e87c"),
        (Hash::Sha384, jefe(12), data.clone(), "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d"),
        (Hash::Sha512, jefe(16), data, "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454"),
    ];
    for (hash, key, data, tag) in cases {
        let key = HmacKey::new(&mut manager, hash, &hex::decode(key).unwrap()).unwrap();
        let mut esp = [hex::decode(data).unwrap(), vec![0; hash.icv_len()]].concat();
        let mut packet = [Packet::new(&mut esp, 0, hash.icv_len(), [0; 16]).unwrap()];
        assert!(manager.hmac(&key, &mut packet));
        assert_eq!(hex::encode(packet[0].tag()), tag, "{hash:?}");
    }
}

#[test]
fn what_c_could_be_given_wrongly_is_refused() {
    let mut octets = vec![0; MAX_LEN + MAX_ICV + 1];
    let mut makes = |len: usize, body, icv_len| Packet::new(&mut octets[..len], body, icv_len, [0; 16]).is_some();
    assert!(makes(40, 8, 32) && makes(MAX_LEN + 16, 8, 16) && makes(16, 0, 16));
    assert!(!makes(39, 8, 32) && !makes(15, 0, 16) && !makes(99, 8, 33) && !makes(MAX_LEN + 17, 8, 16));

    let Some(mut manager) = manager() else { return };
    for len in [0, 15, 17, 33, 64] {
        assert!(GcmKey::new(&mut manager, &vec![0; len]).is_none());
        assert!(AesKey::new(&mut manager, Mode::Ctr, &vec![0; len]).is_none());
    }
    assert!(ChaChaKey::new(&[0; 31]).is_none() && ChaChaKey::new(&[0; 33]).is_none());
    assert!(HmacKey::new(&mut manager, Hash::Sha256, &[0; 65]).is_none());
    assert!(HmacKey::new(&mut manager, Hash::Sha512, &[0; 129]).is_none());

    let gcm = GcmKey::new(&mut manager, &[0; 16]).unwrap();
    let cbc = AesKey::new(&mut manager, Mode::Cbc, &[0; 16]).unwrap();
    let hmac = HmacKey::new(&mut manager, Hash::Sha256, &[0; 32]).unwrap();
    let mut esp = [0; 60];
    let mut odd = [Packet::new(&mut esp, 3, 15, [0; 16]).unwrap()];
    assert!(!manager.gcm(&gcm, Direction::Encrypt, 3, &mut odd));
    assert!(!manager.chacha20_poly1305(&ChaChaKey::new(&[0; 32]).unwrap(), Direction::Encrypt, 3, &mut odd));
    assert!(!manager.cipher(&cbc, Direction::Encrypt, &mut odd));
    assert!(!manager.hmac(&hmac, &mut odd));
    assert_eq!(esp, [0; 60]);
}
