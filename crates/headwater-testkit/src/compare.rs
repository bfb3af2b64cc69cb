//! A readable difference of two texts, line by line.
//!
//! Called by the report; calls nothing. nginx counterpart: none.

/// The lines of both texts: common ones indented, `-` only in `left`, `+` only in `right`.
#[must_use]
pub fn diff(left: &str, right: &str) -> String {
    let left: Vec<&str> = left.lines().collect();
    let right: Vec<&str> = right.lines().collect();
    let lengths = common_lengths(&left, &right);
    let (mut i, mut j) = (0, 0);
    let mut out = String::new();
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && left[i] == right[j] {
            out.push_str(&format!("    {}\n", left[i]));
            i += 1;
            j += 1;
        } else if j >= right.len() || (i < left.len() && lengths[i + 1][j] >= lengths[i][j + 1]) {
            out.push_str(&format!("  - {}\n", left[i]));
            i += 1;
        } else {
            out.push_str(&format!("  + {}\n", right[j]));
            j += 1;
        }
    }
    out
}

/// Length of the longest common subsequence of the tails, for every pair of tails.
fn common_lengths(left: &[&str], right: &[&str]) -> Vec<Vec<usize>> {
    let mut lengths = vec![vec![0; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            lengths[i][j] = if left[i] == right[j] {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diff_marks_changed_lines() {
        assert_eq!(diff("a\nb\nc", "a\nx\nc"), "    a\n  - b\n  + x\n    c\n");
    }
}
