//! Who owns which hash slot.

use deadpool_redis::redis::{Value, from_redis_value};

use super::{slots::SLOTS, target::Address};

/// Redis itself advises no larger cluster.
pub(super) const NODES_MAX: usize = 1_000;
const NOBODY: u16 = u16::MAX;

#[derive(Debug, Clone)]
pub(super) struct SlotMap {
    nodes: Vec<Address>,
    /// By slot, a place in `nodes`.
    owners: Box<[u16]>,
}

impl Default for SlotMap {
    fn default() -> Self {
        Self { nodes: Vec::new(), owners: vec![NOBODY; SLOTS].into() }
    }
}

impl SlotMap {
    /// CLUSTER SLOTS as `teller` answers it; nothing if it is not that or owns no slot.
    pub(super) fn parse(answer: Value, teller: &Address) -> Option<Self> {
        let ranges: Vec<Vec<Value>> = from_redis_value(answer).ok()?;
        let mut map = Self::default();
        for range in ranges {
            let mut parts = range.into_iter();
            let mut number = || from_redis_value::<usize>(parts.next()?).ok();
            let (first, last) = (number()?, number()?);
            let Value::Array(node) = parts.next()? else { return None };
            let mut node = node.into_iter();
            let host: Option<String> = from_redis_value(node.next()?).ok()?;
            let port: u16 = from_redis_value(node.next()?).ok()?;
            let host = host.filter(|host| !matches!(host.as_str(), "" | "?")).unwrap_or_else(|| teller.host.clone());
            let place = map.place_of(Address { host, port })?;
            map.owners.get_mut(first..=last)?.fill(place);
        }
        (!map.nodes.is_empty()).then_some(map)
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        self.nodes.get(usize::from(*self.owners.get(usize::from(slot))?))
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &Address> {
        self.nodes.iter()
    }

    /// The same with one slot at another server.
    pub(super) fn with(&self, slot: u16, owner: Address) -> Self {
        let mut map = self.clone();
        if let (Some(place), Some(it)) = (map.place_of(owner), map.owners.get_mut(usize::from(slot))) {
            *it = place;
        }
        map
    }

    fn place_of(&mut self, address: Address) -> Option<u16> {
        let place = self.nodes.iter().position(|node| *node == address).unwrap_or_else(|| {
            self.nodes.push(address);
            self.nodes.len() - 1
        });
        if place >= NODES_MAX {
            self.nodes.truncate(NODES_MAX);
            return None;
        }
        u16::try_from(place).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        let node = vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString("id".into())];
        Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(node)])
    }

    #[test]
    fn an_answer_is_understood_and_one_that_makes_no_sense_is_none() {
        let teller = Address { host: "me".into(), port: 7 };
        let map = SlotMap::parse(Value::Array(vec![range(0, 99, "a", 1), range(200, 16_383, "", 2)]), &teller);
        let map = map.expect("an answer");
        let owner = |slot| map.owner(slot).map(|it| (it.host.as_str(), it.port));
        assert_eq!((owner(0), owner(99), owner(100)), (Some(("a", 1)), Some(("a", 1)), None));
        assert_eq!((owner(200), owner(16_383), owner(16_384)), (Some(("me", 2)), Some(("me", 2)), None));
        let moved = map.with(5, Address { host: "b".into(), port: 3 });
        assert_eq!(moved.owner(5).map(|it| it.port), Some(3));
        assert_eq!(moved.owners().count(), 3);
        for nonsense in [Value::Nil, Value::Array(vec![]), Value::Array(vec![range(9, 20_000, "a", 1)])] {
            assert!(SlotMap::parse(nonsense, &teller).is_none());
        }
    }
}
