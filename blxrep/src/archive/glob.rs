//! Patterns of names: `*` any bytes, `?` one, `[a-c]` one of these, `[!a-c]` one of the others, `\` takes the next as it
//! is. Pure.

/// Whether a name fits a pattern. Bytes, not characters: names need not be text. At most a step per byte of the
/// pattern and byte of the name.
#[must_use]
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last star does not fit.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        match one(&pattern[p..], name[n]) {
            Some(used) => {
                p += used;
                n += 1;
            }
            None => match &mut star {
                Some((after, from)) => {
                    *from += 1;
                    (p, n) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// How much of the pattern takes this byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', next, ..] => (*next == byte).then_some(2),
        [b'[', rest @ ..] => match set(rest, byte) {
            Some((fits, used)) => fits.then_some(used + 1),
            // A bracket that is never closed is a bracket.
            None => (byte == b'[').then_some(1),
        },
        [first, ..] => (*first == byte).then_some(1),
        [] => None,
    }
}

/// Whether a set takes a byte, and its length with the closing bracket.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(b'-'), Some(high)) if *high != b']' => {
                found |= (low..=*high).contains(&byte);
                at += 3;
            }
            _ => {
                found |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_patterns() {
        let yes = [
            ("*", ""),
            ("*.log", "a.log"),
            ("a*b*c", "a-b-b-c"),
            ("?", "x"),
            ("[a-c]x", "bx"),
            ("[!a]x", "bx"),
            ("\\*", "*"),
            ("[]]", "]"),
            ("[", "["),
            ("a[-]b", "a-b"),
            ("**", "x"),
            ("[a-", "[a-"),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        let no = [
            ("*.log", "a.logs"),
            ("?", ""),
            ("[a-c]x", "dx"),
            ("[!a]x", "ax"),
            ("\\*", "x"),
            ("", "x"),
            ("a", ""),
        ];
        for (pattern, name) in no {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        assert!(matches(b"*\xff?", b"a\xff\xfe"));
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches("*a".repeat(100).as_bytes(), "a".repeat(99).as_bytes()));
    }
}
