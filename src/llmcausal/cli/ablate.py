from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from llmcausal.cli import options
from llmcausal.cli.options import option

app = options.subcommand()


@app.command(
    epilog=options.examples(
        "llmcausal ablate demo-cpu --vary loss.lambda_robust=0,1 --seeds 3",
        "llmcausal ablate demo-cpu --vary lora.rank=8,16 --vary loss.tau=0.07,0.2",
        "llmcausal ablate demo-cpu --vary lora.rank,lora.alpha=8:16,16:32 --json",
    )
)
def ablate(
    profile: options.Profile,
    vary: Annotated[
        list[str],
        option(
            "KEY=V,V", "Values of one setting, or K,K=V:V,V:V for several together; repeatable."
        ),
    ],
    overrides: Annotated[
        list[str] | None, option("KEY=VALUE", "Change one setting in all runs.", "--set")
    ] = None,
    seeds: Annotated[int, option("N", "Seeds for each combination.", min=1)] = 1,
    trials: Annotated[
        int | None, option("N", "Let Optuna choose N combinations by validation figures.", min=1)
    ] = None,
    output_dir: Annotated[
        Path | None, option("DIR", "The ablation's folder, instead of runs/ablate-NAME.")
    ] = None,
    plain: options.Plain = False,
    as_json: options.AsJson = False,
) -> None:
    """Train and evaluate every combination of settings; run it again to continue."""
    with options.reserved_stdout() if as_json else nullcontext():
        from llmcausal.assembly import ablation

        result = ablation.ablate(
            ablation.AblationRequest(
                profile, vary, overrides or (), seeds, trials, output_dir, plain
            )
        )
    if as_json:
        options.print_json(result)
        return
    from llmcausal.ui.console import console
    from llmcausal.ui.tables import render_ablation

    console().print(render_ablation(result))
    console().print(f"written: {result['folder']}/ablation.md, .svg and .json", soft_wrap=True)
