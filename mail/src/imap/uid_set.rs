//! Sets of unique identifiers as servers and commands write them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Unique identifiers as ranges, which are never expanded: a server that says `1:4294967295` costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct UidSet {
    /// First and last of each: ascending, with a gap between any two, none with 0.
    ranges: Vec<(u32, u32)>,
}

impl UidSet {
    /// Without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.ranges().map(|range| count(&range)).sum()
    }

    /// Whether this is one of them.
    pub fn contains(&self, uid: u32) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= uid);
        after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| uid <= *last)
    }

    /// The ranges, ascending, no two of which touch.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u32>> + '_ {
        self.ranges.iter().map(|(first, last)| *first..=*last)
    }

    /// Each of them, ascending: up to four billion.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges().flatten()
    }

    /// The highest.
    pub fn last(&self) -> Option<u32> {
        self.ranges.last().map(|(_, last)| *last)
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::normalised([self.ranges.as_slice(), &other.ranges].concat())
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut here, mut there) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some((first, last)), Some((other_first, other_last))) = (here.peek(), there.peek()) {
            let (from, to) = (first.max(other_first), last.min(other_last));
            if from <= to {
                ranges.push((*from, *to));
            }
            if last <= other_last {
                here.next()
            } else {
                there.next()
            };
        }
        Self { ranges }
    }

    /// What is in this one alone.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let mut others = other.ranges.iter().peekable();
        for (first, last) in &self.ranges {
            // Everything below it is settled. Beyond u32 once the last of all is.
            let mut next = u64::from(*first);
            while let Some((other_first, other_last)) = others.peek() {
                if other_first > last {
                    break;
                }
                if u64::from(*other_first) > next {
                    ranges.push((next as u32, other_first - 1));
                }
                next = next.max(u64::from(*other_last) + 1);
                if other_last > last {
                    break;
                }
                others.next();
            }
            if next <= u64::from(*last) {
                ranges.push((next as u32, *last));
            }
        }
        Self { ranges }
    }

    /// So many of the highest, or all where there are no more.
    #[must_use]
    pub fn newest(&self, most: u64) -> Self {
        let mut left = most;
        let mut ranges = Vec::new();
        for (first, last) in self.ranges.iter().rev() {
            if left == 0 {
                break;
            }
            let taken = count(&(*first..=*last)).min(left);
            ranges.push(((u64::from(*last) + 1 - taken) as u32, *last));
            left -= taken;
        }
        ranges.reverse();
        Self { ranges }
    }

    /// Ascending parts, each of which is written in so many bytes at most, or is a single range.
    pub fn split(&self, max_bytes: usize) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        let mut bytes = 0;
        for range in &self.ranges {
            let length = written(range) + 1;
            match parts.last_mut() {
                Some(part) if bytes + length <= max_bytes + 1 => part.ranges.push(*range),
                _ => {
                    parts.push(Self { ranges: vec![*range] });
                    bytes = 0;
                }
            }
            bytes += length;
        }
        parts
    }

    /// Reads what a server writes, without the space or end after it.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut ranges = Vec::new();
        for piece in text.split(|byte| *byte == b',') {
            let mut ends = piece.splitn(2, |byte| *byte == b':');
            let first = uid(ends.next()?)?;
            let last = ends.next().map_or(Some(first), uid)?;
            // Either end may come first (RFC 9051 section 9).
            push(&mut ranges, (first.min(last), first.max(last)));
        }
        Some(Self::normalised(ranges))
    }

    fn normalised(mut ranges: Vec<(u32, u32)>) -> Self {
        if !ranges.is_sorted() {
            ranges.sort();
        }
        let mut merged = 0;
        for at in 1..ranges.len() {
            let (before, (first, last)) = (ranges[merged], ranges[at]);
            if first <= before.1.saturating_add(1) {
                ranges[merged].1 = before.1.max(last);
            } else {
                merged += 1;
                ranges[merged] = (first, last);
            }
        }
        ranges.truncate(merged + 1);
        ranges.shrink_to_fit();
        Self { ranges }
    }
}

/// A set that comes in pieces, in any order: a server that says each number in a response of its own costs no more than one
/// that says all of them at once.
#[derive(Debug, Default)]
pub struct UidPieces {
    /// As they came, from some place on.
    ranges: Vec<(u32, u32)>,
    /// How many there were when they were last put together.
    settled: usize,
}

impl UidPieces {
    /// One more.
    pub fn add(&mut self, piece: &UidSet) {
        piece.ranges.iter().for_each(|range| push(&mut self.ranges, *range));
        if self.ranges.len() > 2 * self.settled + 1024 {
            self.ranges = self.whole().ranges;
            self.settled = self.ranges.len();
        }
    }

    /// How many ranges are held: no more than twice those of the set, and some.
    pub fn held(&self) -> usize {
        self.ranges.len()
    }

    /// All of them; none is left.
    pub fn whole(&mut self) -> UidSet {
        self.settled = 0;
        UidSet::normalised(std::mem::take(&mut self.ranges))
    }
}

/// Appends a range, to the last one where it goes on from there. Servers list ascending, mostly.
fn push(ranges: &mut Vec<(u32, u32)>, (first, last): (u32, u32)) {
    match ranges.last_mut() {
        Some(before) if before.0 <= first && first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
        _ => ranges.push((first, last)),
    }
}

fn count(range: &RangeInclusive<u32>) -> u64 {
    u64::from(*range.end()) - u64::from(*range.start()) + 1
}

/// The bytes of one range.
fn written((first, last): &(u32, u32)) -> usize {
    let digits = |number: &u32| number.ilog10() as usize + 1;
    if first == last { digits(first) } else { digits(first) + 1 + digits(last) }
}

/// None is 0, and `*` is no answer.
fn uid(text: &[u8]) -> Option<u32> {
    super::frame::number(text).and_then(|number| u32::try_from(number).ok()).filter(|uid| *uid != 0)
}

impl fmt::Display for UidSet {
    /// As a sequence-set of a command. The empty set has none: it is written as nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}:{last}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for UidSet {
    type Err = &'static str;

    /// Numbers and ranges with commas between them; nothing is the empty set.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::new());
        }
        Self::read(text.as_bytes()).ok_or("must be numbers from 1 on, and ranges of them, with commas between them")
    }
}

impl FromIterator<RangeInclusive<u32>> for UidSet {
    /// In any order. An empty range has none, and 0 is left out: it is no unique identifier.
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u32>>>(given: I) -> Self {
        let mut ranges = Vec::new();
        for range in given {
            let first = (*range.start()).max(1);
            if first <= *range.end() {
                push(&mut ranges, (first, *range.end()));
            }
        }
        Self::normalised(ranges)
    }
}

impl FromIterator<u32> for UidSet {
    /// In any order, without 0.
    fn from_iter<I: IntoIterator<Item = u32>>(uids: I) -> Self {
        uids.into_iter().map(|uid| uid..=uid).collect()
    }
}

impl From<RangeInclusive<u32>> for UidSet {
    fn from(range: RangeInclusive<u32>) -> Self {
        Self::from_iter([range])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> UidSet {
        text.parse().unwrap()
    }

    #[test]
    fn sets_are_read_as_servers_write_them() {
        for (text, expected) in [
            ("1", "1"),
            ("3,1,2", "1:3"),
            ("5:1", "1:5"),
            ("1:5,3:9,11", "1:9,11"),
            ("007", "7"),
            ("1:4294967295", "1:4294967295"),
            ("4294967295,1:4294967294", "1:4294967295"),
        ] {
            assert_eq!(set(text).to_string(), expected, "{text}");
        }
        for text in
            ["0", "1,", ",1", "1:", ":1", "1:2:3", "*", "1:*", "4294967296", "-1", "1 2", "x", "99999999999999999999"]
        {
            assert!(text.parse::<UidSet>().is_err(), "{text}");
        }
        assert_eq!(set(""), UidSet::new());
    }

    #[test]
    fn the_whole_range_costs_no_more_than_one_number() {
        let all = set("1:4294967295");
        assert_eq!(all.len(), u64::from(u32::MAX));
        assert!(all.contains(1) && all.contains(u32::MAX) && !all.contains(0));
        assert_eq!(all.difference(&set("1,7:9,4294967295")).to_string(), "2:6,10:4294967294");
        assert_eq!(all.difference(&all), UidSet::new());
        assert_eq!(all.intersection(&set("5,9")).to_string(), "5,9");
        assert_eq!(all.union(&set("5")), all);
        assert_eq!(all.newest(3).to_string(), "4294967293:4294967295");
        assert_eq!(all.last(), Some(u32::MAX));
        assert_eq!((UidSet::new().len(), UidSet::new().last()), (0, None));
        assert_eq!([0..=3, 9..=9].into_iter().collect::<UidSet>().to_string(), "1:3,9");
    }

    #[test]
    fn pieces_are_a_set_whatever_their_order_and_hold_no_more_than_it_needs() {
        let mut pieces = UidPieces::default();
        for _ in 0..3 {
            for uid in (1..=5000).rev() {
                pieces.add(&UidSet::from(2 * uid..=2 * uid));
                assert!(pieces.held() <= 2 * 5000 + 1025);
            }
        }
        assert_eq!(pieces.whole(), (1..=5000).map(|uid| 2 * uid).collect());
        assert_eq!((pieces.held(), pieces.whole()), (0, UidSet::new()));
    }

    /// Few numbers, so that they meet.
    fn uids() -> impl Strategy<Value = BTreeSet<u32>> {
        prop_oneof![
            proptest::collection::btree_set(1..40_u32, 0..40),
            proptest::collection::btree_set(u32::MAX - 20..=u32::MAX, 0..20),
        ]
    }

    fn expanded(set: &UidSet) -> BTreeSet<u32> {
        let ranges: Vec<_> = set.ranges().collect();
        assert!(ranges.iter().all(|range| *range.start() >= 1 && range.start() <= range.end()), "{ranges:?}");
        assert!(ranges.windows(2).all(|two| u64::from(*two[0].end()) + 1 < u64::from(*two[1].start())), "{ranges:?}");
        set.iter().collect()
    }

    proptest! {
        #[test]
        fn it_is_a_set(one in uids(), other in uids(), n in 0..30_u64, probe in 0..45_u32) {
            let (here, there): (UidSet, UidSet) = (one.iter().copied().collect(), other.iter().copied().collect());
            prop_assert_eq!(&expanded(&here), &one);
            prop_assert_eq!(expanded(&here.union(&there)), &one | &other);
            prop_assert_eq!(expanded(&here.intersection(&there)), &one & &other);
            prop_assert_eq!(expanded(&here.difference(&there)), &one - &other);
            prop_assert_eq!(expanded(&here.newest(n)), one.iter().rev().take(n as usize).copied().collect());
            prop_assert_eq!(here.len(), one.len() as u64);
            prop_assert_eq!(here.contains(probe), one.contains(&probe));
            prop_assert_eq!(here.last(), one.last().copied());
            prop_assert_eq!(here.to_string().parse::<UidSet>().unwrap(), here);
        }

        #[test]
        fn ranges_in_any_order_are_their_union(ranges in proptest::collection::vec((0..50_u32, 0..50_u32), 0..20)) {
            let set: UidSet = ranges.iter().map(|(first, last)| *first..=*last).collect();
            prop_assert_eq!(expanded(&set), ranges.iter().flat_map(|(first, last)| *first..=*last).filter(|n| *n > 0).collect());
        }

        #[test]
        fn parts_are_short_and_together_the_whole(uids in proptest::collection::btree_set(1..100_000_u32, 0..200), max in 1..60_usize) {
            let set: UidSet = uids.into_iter().collect();
            let parts = set.split(max);
            for part in &parts {
                prop_assert!(part.to_string().len() <= max || part.ranges().count() == 1);
            }
            prop_assert!(parts.windows(2).all(|two| two[0].to_string().len() + 1 + two[1].ranges().next().map_or(0, |range| written(&(*range.start(), *range.end()))) > max));
            prop_assert_eq!(parts.iter().fold(UidSet::new(), |whole, part| whole.union(part)), set);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9,:*]{0,30}") {
            if let Ok(set) = text.parse::<UidSet>() {
                prop_assert_eq!(set.to_string().parse::<UidSet>().unwrap(), set);
            }
        }
    }
}
