//! Shared values that bear their signature in themselves, as the last member of a JSON object: whoever does not look
//! for it reads the value as ever.

use super::{Authority, Refusal, SIGNED_VALUE, Standing};

/// What comes between a value and its signature, in place of the value's last brace.
const MEMBER: &[u8] = b",\"signature\":\"";
/// What ends a signed value.
const END: &[u8] = b"\"}";

impl Authority {
    /// The value, which is a JSON object with members, with this key's signature for `address`: the same each time.
    pub fn sealed(&self, address: &str, value: Vec<u8>) -> Vec<u8> {
        let signature = self.signer().sign_as(SIGNED_VALUE, address, &value);
        let mut sealed = value;
        sealed.pop();
        sealed.extend_from_slice(MEMBER);
        sealed.extend_from_slice(signature.as_bytes());
        sealed.extend_from_slice(END);
        sealed
    }

    /// Whose the value at `address` is, and what was signed of it, without the signature.
    pub fn opened(&self, address: &str, value: &[u8]) -> Result<Vec<u8>, Standing> {
        let Some((body, signature)) = parts(value) else {
            return Err(Standing::Forged(Refusal::Unsigned));
        };
        match self.judge_as(SIGNED_VALUE, address, Some(signature), &body) {
            Standing::Genuine => Ok(body),
            other => Err(other),
        }
    }
}

/// What was signed, and the signature.
fn parts(value: &[u8]) -> Option<(Vec<u8>, &str)> {
    let inner = value.strip_suffix(END)?;
    let at = inner
        .windows(MEMBER.len())
        .rposition(|window| window == MEMBER)?;
    let signature = std::str::from_utf8(&inner[at + MEMBER.len()..]).ok()?;
    let mut body = inner[..at].to_vec();
    body.push(b'}');
    Some((body, signature))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Keyring, Signer},
        *,
    };

    const ADDRESS: &str = "$KV.ORCH_STATE.def.crawl";
    const VALUE: &[u8] = br#"{"name":"crawl","description":",\"signature\":\"v1 a b\"}"}"#;

    fn authority() -> Authority {
        Authority::new(Signer::from_seed(&[7; 32]), Some(Keyring::default()))
    }

    fn rule(opened: Result<Vec<u8>, Standing>) -> &'static str {
        match opened {
            Ok(_) => "genuine",
            Err(Standing::Genuine) => "no refusal",
            Err(Standing::Forged(why)) => why.rule(),
            Err(Standing::Unknown(_)) => "unknown",
        }
    }

    #[test]
    fn what_was_sealed_is_opened_there_and_is_json_for_everybody() {
        let authority = authority();
        let sealed = authority.sealed(ADDRESS, VALUE.to_vec());
        assert_eq!(sealed, authority.sealed(ADDRESS, VALUE.to_vec()));
        assert_eq!(authority.opened(ADDRESS, &sealed).unwrap(), VALUE);
        let read: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(read["name"], "crawl");
        assert!(read["signature"].as_str().unwrap().starts_with("v1 "));
        let elsewhere = authority.opened("$KV.ORCH_STATE.def.other", &sealed);
        assert_eq!(rule(elsewhere), "altered");
    }

    #[test]
    fn every_byte_counts() {
        let authority = authority();
        let sealed = authority.sealed(ADDRESS, VALUE.to_vec());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1 << (at % 8);
            let opened = authority.opened(ADDRESS, &altered);
            assert!(opened.is_err(), "byte {at}: {opened:?}");
        }
        for length in 0..sealed.len() {
            assert!(authority.opened(ADDRESS, &sealed[..length]).is_err());
        }
    }

    #[test]
    fn others_are_told_apart_from_forgers() {
        let own = Signer::from_seed(&[7; 32]);
        let other = Authority::new(Signer::from_seed(&[8; 32]), None);
        let by_other = other.sealed(ADDRESS, VALUE.to_vec());
        let alone = Authority::new(own.clone(), None);
        assert_eq!(rule(alone.opened(ADDRESS, &by_other)), "unknown");
        assert_eq!(rule(alone.opened(ADDRESS, VALUE)), "unsigned");
        assert_eq!(rule(authority().opened(ADDRESS, &by_other)), "untrusted");
        let mut ring = Keyring::default();
        ring.add(other.signer().public().clone());
        let both = Authority::new(own.clone(), Some(ring));
        assert_eq!(rule(both.opened(ADDRESS, &by_other)), "genuine");
        // A run that says the same is no value, nor the other way round.
        let of_a_run = own.sign(ADDRESS, VALUE);
        let mut forged = VALUE[..VALUE.len() - 1].to_vec();
        forged.extend_from_slice(format!(",\"signature\":\"{of_a_run}\"}}").as_bytes());
        assert_eq!(rule(authority().opened(ADDRESS, &forged)), "altered");
    }
}
