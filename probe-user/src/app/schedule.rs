//! The order of a session's runs. Pure.
//!
//! Configurations are interleaved, so that a drift of the host (heat, other load) hits all of them alike. Each block
//! holds every configuration once; the next block goes the other way round (A B B A), and with more than two the
//! start rotates too, so that none is always first after a switch.

/// Which configuration each run uses, as indices below `configs`, `repeats` times each. The seed decides the first
/// block's start and direction.
#[must_use]
pub fn schedule(configs: usize, repeats: usize, seed: u64) -> Vec<usize> {
    if configs == 0 {
        return Vec::new();
    }
    let start = usize::try_from(seed % configs as u64).unwrap_or(0);
    let backwards = seed / configs as u64 % 2 == 1;
    let mut order = Vec::with_capacity(configs * repeats);
    for block in 0..repeats {
        // Two blocks that mirror each other start at the same place, then the start moves on.
        let rotation = start + block / 2;
        let mut one: Vec<usize> = (0..configs).map(|i| (i + rotation) % configs).collect();
        if (block % 2 == 1) != backwards {
            one.reverse();
        }
        order.extend(one);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_configurations_alternate_as_abba() {
        assert_eq!(schedule(2, 3, 0), [0, 1, 1, 0, 1, 0]);
        assert_eq!(schedule(2, 2, 1), [1, 0, 0, 1]);
        assert_eq!(schedule(1, 3, 7), [0, 0, 0]);
        assert_eq!(schedule(0, 3, 7), [0; 0]);
    }

    proptest! {
        #[test]
        fn every_block_holds_every_configuration(configs in 1usize..6, repeats in 0usize..9, seed: u64) {
            let order = schedule(configs, repeats, seed);
            prop_assert_eq!(order.len(), configs * repeats);
            for block in order.chunks(configs) {
                let mut sorted = block.to_vec();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..configs).collect::<Vec<_>>());
            }
        }
    }
}
