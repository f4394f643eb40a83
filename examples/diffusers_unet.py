"""The UNet2DModel of Hugging Face diffusers as the proposal of an exact chain (``pip install diffusers``).

    python examples/diffusers_unet.py [--steps 300] [--out diffusers_unet]

It predicts the noise of the discrete process of DDPM, and is told the number of its step. Here it is trained for a
little while; a network that was trained in another program is used in the same way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel

import dmmc

ACTION, LATTICE = dmmc.Phi4(kappa=0.2, lam=0.1), dmmc.Lattice((8, 8))
SETTINGS = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [16, 32],
    "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


def main() -> None:
    """Make fields, train as the documentation of diffusers does, and run the exact chain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="steps of training")
    parser.add_argument("--draws", type=int, default=100, help="draws of each of 16 chains")
    parser.add_argument("--out", type=Path, default=Path("diffusers_unet"), help="folder of the results")
    args = parser.parse_args()
    torch.manual_seed(1)

    hmc = dmmc.make_ensemble(ACTION, LATTICE, args.out / "hmc.h5", chains=64, draws=args.draws, keep_every=5)
    phi = torch.as_tensor(hmc.cfgs()).float()[:, None]
    net, scheduler = UNet2DModel(**SETTINGS), DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(args.steps):
        batch = phi[torch.randint(len(phi), (64,))]
        step, noise = torch.randint(1000, (64,)), torch.randn_like(batch)
        loss = (net(scheduler.add_noise(batch, noise, step), step).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    model = dmmc.foreign(
        net, predicts="eps", schedule=dmmc.VP(argument="step", steps=1000), ensemble=hmc, arguments=SETTINGS
    )
    model.save(args.out / "unet.safetensors")
    run = dmmc.sample(model, args.out / "unet.h5", chains=16, draws=args.draws)
    print(run.summary())


if __name__ == "__main__":
    main()
