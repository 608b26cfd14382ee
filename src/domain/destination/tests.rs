//! What the rules let through, and what no spelling gets through them.

use proptest::prelude::*;

use super::*;

fn words(items: &[&str]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn numbers(allowed: &[&str], denied: &[&str], deny_classes: &[NumberClass]) -> DestinationPolicy {
    let draft = DestinationPolicyDraft {
        e164_allow_prefixes: words(allowed),
        e164_deny_prefixes: words(denied),
        deny_classes: deny_classes.iter().copied().map(Some).collect(),
        ..DestinationPolicyDraft::default()
    };
    DestinationPolicy::parse(draft).expect("valid rules")
}

fn hosts(allowed: &[&str]) -> DestinationPolicy {
    let draft = DestinationPolicyDraft { sip_allow_hosts: words(allowed), ..DestinationPolicyDraft::default() };
    DestinationPolicy::parse(draft).expect("valid rules")
}

fn number(address: &str) -> Outbound<'_> {
    Outbound { kind: DestinationType::E164, address }
}

fn sip(address: &str) -> Outbound<'_> {
    Outbound { kind: DestinationType::SipUri, address }
}

#[test]
fn no_rules_allow_everything() {
    let policy = DestinationPolicy::default();
    for outbound in [number("+97912345"), sip("sip:a@[::1]"), sip("sips:+8811234567@x.example;user=phone")] {
        assert!(policy.permits(outbound), "{outbound:?}");
    }
}

#[test]
fn the_longest_prefix_decides_and_the_denied_one_between_equals() {
    let policy = numbers(&["+49", "+4930123", "+1"], &["+4930", "+1", "+44"], &[]);
    for good in ["+4940123456", "+49301234567"] {
        assert!(policy.permits(number(good)), "{good}");
    }
    for bad in ["+49304567890", "+15550100", "+442071234567", "+33123456789"] {
        assert!(!policy.permits(number(bad)), "{bad}");
    }
    let all_but = numbers(&[], &["+4930"], &[]);
    assert!(all_but.permits(number("+33123456789")) && !all_but.permits(number("+49301234567")));
}

#[test]
fn a_class_denies_as_its_prefixes_do() {
    for class in NumberClass::ALL {
        for prefix in class.prefixes() {
            let inside = format!("{prefix}12345");
            assert!(!numbers(&[], &[], &[*class]).permits(number(&inside)), "{inside}");
            assert!(!numbers(&[prefix], &[], &[*class]).permits(number(&inside)), "{inside}, a tie");
            assert!(numbers(&[&inside], &[], &[*class]).permits(number(&inside)), "{inside}, allowed more exactly");
            assert!(Prefix::parse((*prefix).to_owned()).is_ok(), "{prefix}");
        }
    }
    assert!(numbers(&[], &[], &[NumberClass::PremiumRate]).permits(number("+8811234567")));
}

#[test]
fn a_host_is_allowed_by_its_name_or_by_a_domain_above_it() {
    let policy = hosts(&["PBX.example.", "*.trunk.example", "192.0.2.7", "[2001:DB8::1]"]);
    for good in [
        "sip:desk@pbx.EXAMPLE:5061;transport=tls",
        "sip:pbx.example.",
        "sips:a@a.trunk.example",
        "sip:a@b.a.Trunk.example.",
        "sip:a@192.0.2.7:5060",
        "sip:a@[2001:db8:0:0::1]",
        "sip:a@pbx.example;maddr=192.0.2.7",
    ] {
        assert!(policy.permits(sip(good)), "{good}");
    }
    for bad in [
        "sip:pbx.example@evil.example",
        "sip:a@evil-pbx.example",
        "sip:a@pbx.example.evil.example",
        "sip:a@trunk.example",
        "sip:a@eviltrunk.example",
        "sip:a@192.0.2.8",
        "sip:a@[::ffff:192.0.2.7]",
        "sip:a@3221225991",
        "sip:a@pbx.example;maddr=evil.example",
        "sip:a@pbx.example?Route=evil.example",
        "sip:a@evil.example;x=@pbx.example",
    ] {
        assert!(!policy.permits(sip(bad)), "{bad}");
    }
}

#[test]
fn a_number_in_a_sip_uri_needs_both_its_host_and_itself_allowed() {
    let draft = DestinationPolicyDraft {
        e164_allow_prefixes: words(&["+49"]),
        sip_allow_hosts: words(&["gw.example"]),
        ..DestinationPolicyDraft::default()
    };
    let policy = DestinationPolicy::parse(draft).expect("valid rules");
    assert!(policy.permits(sip("sip:+4930123456@gw.example;user=phone")));
    assert!(policy.permits(sip("sip:desk@gw.example")));
    assert!(!policy.permits(sip("sip:+15550100@gw.example")));
    assert!(!policy.permits(sip("sip:+4930123456@other.example")));
}

#[test]
fn every_faulty_entry_is_named_by_its_index_and_all_at_once() {
    let draft = DestinationPolicyDraft {
        e164_allow_prefixes: words(&["+49", "49", "+", "+1234567890123456"]),
        e164_deny_prefixes: vec!["+1".to_owned(); 1_001],
        deny_classes: vec![Some(NumberClass::Satellite), None],
        sip_allow_hosts: words(&["a.example", "*.0.0.1", "*", "*.*.example", "a.example:5060", "", "a b", "*.[::1]"]),
    };
    let faults = DestinationPolicy::parse(draft).expect_err("faults");
    let named: Vec<_> = faults.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        named,
        [
            "e164_allow_prefixes[1]",
            "e164_allow_prefixes[2]",
            "e164_allow_prefixes[3]",
            "e164_deny_prefixes",
            "deny_classes[1]",
            "sip_allow_hosts[1]",
            "sip_allow_hosts[2]",
            "sip_allow_hosts[3]",
            "sip_allow_hosts[4]",
            "sip_allow_hosts[5]",
            "sip_allow_hosts[6]",
            "sip_allow_hosts[7]",
        ]
    );
}

#[test]
fn the_largest_rules_are_read_and_stay_what_they_are() {
    let draft = DestinationPolicyDraft {
        e164_allow_prefixes: vec!["+123456789012345".to_owned(); ALLOW_PREFIXES_MAX],
        e164_deny_prefixes: vec!["+9".to_owned(); DENY_PREFIXES_MAX],
        deny_classes: NumberClass::ALL.iter().copied().map(Some).collect(),
        sip_allow_hosts: vec!["*.trunk.example".to_owned(); SIP_HOSTS_MAX],
    };
    let policy = DestinationPolicy::parse(draft.clone()).expect("valid rules");
    assert_eq!(DestinationPolicyDraft::from(&policy), draft);
    let json = serde_json::to_string(&policy).expect("JSON");
    assert_eq!(serde_json::from_str::<DestinationPolicy>(&json).expect("rules"), policy);
}

/// One character of a number, as a SIP URI may spell it.
fn spelt(character: char) -> impl Strategy<Value = String> {
    let escaped = format!("%{:02X}", u32::from(character));
    let plain = character.to_string();
    prop_oneof![
        Just(plain.clone()),
        Just(escaped.clone()),
        Just(escaped.to_lowercase()),
        "[-.()]{1,2}".prop_map(move |separators| format!("{separators}{plain}")),
    ]
}

/// `+` and digits, as a SIP URI may spell them.
fn spellings(number: &str) -> impl Strategy<Value = String> + use<> {
    let digits: Vec<_> = number.chars().skip(1).map(spelt).collect();
    (prop_oneof![Just("+"), Just("%2B"), Just("%2b"), Just("(+"), Just("%20+")], digits)
        .prop_map(|(plus, digits)| plus.to_owned() + &digits.concat())
}

fn a_denied_number_and_a_spelling() -> impl Strategy<Value = (String, String, String)> {
    let prefix_and_rest = ("\\+[1-9][0-9]{0,6}", "[0-9]{6,8}");
    prefix_and_rest.prop_flat_map(|(prefix, rest)| {
        let number = format!("{prefix}{rest}");
        let spelling = spellings(&number);
        (Just(prefix), Just(number), spelling)
    })
}

proptest! {
    #[test]
    fn a_denied_prefix_is_reached_by_no_spelling(
        (prefix, plain, spelling) in a_denied_number_and_a_spelling(),
        scheme in "sips?",
        tail in "(;ext=[0-9]{1,3}|:[a-z]{1,4})?",
        port in "(:[1-9][0-9]{3})?",
        parameters in "(;user=phone|;transport=tcp;user=PHONE)?",
    ) {
        // However much shorter or equal prefixes allow.
        let policy = numbers(&[&prefix[..2], &prefix, "+1", "+4"], &[&prefix], &[]);
        prop_assert!(!policy.permits(number(&plain)));
        let uri = format!("{scheme}:{spelling}{tail}@gw.example{port}{parameters}");
        prop_assert!(!policy.permits(sip(&uri)), "{}", uri);
    }

    #[test]
    fn a_number_is_judged_as_if_the_rules_had_been_read_one_by_one(
        allowed in prop::collection::vec("\\+[1-3]{1,4}", 0..6),
        denied in prop::collection::vec("\\+[1-3]{1,4}", 0..6),
        asked in "\\+[1-3]{7}",
    ) {
        let words = |list: &[String]| list.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let lists = [&allowed, &denied].map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
        // From the longest beginning of the number to the shortest, the first rule that is met decides.
        let decided = (2..=asked.len()).rev().find_map(|length| {
            let beginning = &asked[..length];
            let denies = denied.iter().any(|prefix| prefix == beginning);
            let allows = allowed.iter().any(|prefix| prefix == beginning);
            (denies || allows).then_some(!denies)
        });
        let expected = decided.unwrap_or(allowed.is_empty());
        let policy = numbers(&lists[0], &lists[1], &[]);
        prop_assert_eq!(policy.permits(number(&asked)), expected, "{}: + {} - {}", asked, words(&allowed), words(&denied));
    }
}
